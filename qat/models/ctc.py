"""What both models share: CTC loss, greedy decoding, error rate, optimiser, recipe and checkpoint rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.text import WordErrorRate

from datamodules.batch import Batch
from datamodules.text import ALPHABET
from qat.decoding.ctc import GreedyCTC
from qat.layers.fold import fold_batch_norm_
from qat.layers.quantizer import StepKey
from qat.layers.state import set_enabled_
from qat.layers.swap import SwapReport, set_step_key_, swap_
from qat.models.checkpoint import read_checkpoint
from qat.models.distillation import Teacher, splice
from qat.models.optimizer import parameter_groups, warmup_cosine
from qat.recipe import Recipe
from qat.system.errors import UserError
from qat.system.seeds import hashed_seed

BLANK = "<blank>"
VOCABULARY: tuple[str, ...] = (BLANK, *ALPHABET)


class CTCModule(LightningModule):
    """A speech recogniser trained with CTC (Graves 2006) whose layers follow a quantization recipe.

    Subclasses build their float layers, call `finish_build`, and give `features` and `encode`.

    Args:
        recipe: what is quantized and how; a `Recipe` or its `to_dict()`.
        init_from: float checkpoint whose weights the model starts from; None starts from random weights.
        learning_rate: peak rate of AdamW for the weights.
        quantizer_learning_rate: peak rate for learned scales.
        weight_decay: for matrices and kernels only; biases, norms and scales have none.
        warmup_steps: optimiser steps of linear warm-up before the cosine decay.
        final_lr_ratio: learning rate at the last step over the peak, in [0, 1].
        teacher: float model (checkpoint, or Hugging Face folder or name) whose frame posteriors training follows; None:
            transcripts only.
        distillation_weight: share of the teacher in the loss, in [0, 1]; the transcript has the rest.
        splice_share: share of a batch made of two utterances each, which the teacher alone can label, in [0, 1].

    Raises:
        UserError: a share or weight outside its range, or splicing without a teacher.
    """

    groups: dict[str, list[str]] = {}

    def __init__(
        self,
        recipe: Recipe | dict[str, Any] | None = None,
        init_from: str | None = None,
        learning_rate: float = 1e-3,
        quantizer_learning_rate: float = 1e-4,
        weight_decay: float = 1e-2,
        warmup_steps: int = 100,
        final_lr_ratio: float = 0.01,
        teacher: str | None = None,
        distillation_weight: float = 0.5,
        splice_share: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("distillation_weight", distillation_weight), ("splice_share", splice_share)):
            if not 0.0 <= value <= 1.0:
                raise UserError(f"{name} is {value}; allowed are numbers from 0 to 1")
        if splice_share and not teacher:
            raise UserError(f"splice_share is {splice_share}; without a teacher allowed is 0")
        self.recipe = (
            Recipe.from_dict(recipe) if isinstance(recipe, dict) else recipe or Recipe()
        ).resolved()
        self.init_from = init_from
        self.learning_rate = learning_rate
        self.quantizer_learning_rate = quantizer_learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.final_lr_ratio = final_lr_ratio
        self.teacher_path = teacher
        self.distillation_weight = distillation_weight
        self.splice_share = splice_share
        self.teacher: Teacher | None = None
        self.vocabulary: list[str] = list(VOCABULARY)
        self.folded: list[str] = []
        self.reconstruction: list[dict[str, Any]] = []  # what AdaRound and bias correction did to each layer
        self.swap_report = SwapReport([], [])
        self.step_key = StepKey(seed=self.recipe.seed)
        self.noise_seed = 0
        self.val_wer = WordErrorRate()

    # ---------------------------------------------------------------- building
    def base_arguments(self) -> dict[str, Any]:
        """Hyper-parameters of this base class as builtins (`init_from` is spent once the weights are in)."""
        return {
            "recipe": self.recipe.to_dict(),
            "learning_rate": self.learning_rate,
            "quantizer_learning_rate": self.quantizer_learning_rate,
            "weight_decay": self.weight_decay,
            "warmup_steps": self.warmup_steps,
            "final_lr_ratio": self.final_lr_ratio,
            "teacher": self.teacher_path,
            "distillation_weight": self.distillation_weight,
            "splice_share": self.splice_share,
        }

    def finish_build(self) -> None:
        """Load the float start, then swap the recipe's layers in (bypassed until calibration switches them on)."""
        if self.init_from:
            self.load_float(self.init_from)
        if self.recipe.active:
            self.swap_report = swap_(self, self.recipe, self.groups)
            set_step_key_(self, self.step_key)

    def load_float(self, path: str) -> None:
        """Copy the weights of a float checkpoint of the same model.

        Raises:
            UserError: the file is not a checkpoint, or one of another model or of a quantized run.
        """
        checkpoint = read_checkpoint(path)
        if checkpoint["model"] != model_path(self):
            raise UserError(
                f"{path}: init_from holds a {checkpoint['model']}, and this run builds a {model_path(self)}"
            )
        if Recipe.from_dict(checkpoint["hyper_parameters"]["recipe"]).active:
            raise UserError(
                f"{path}: init_from is a quantized checkpoint; it must be a float one (`--qat off`)"
            )
        try:
            self.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise UserError(f"{path}: init_from does not fit this model: {_first_problem(error)}") from None

    def check_teacher(self) -> None:
        """Training follows the teacher that the model names; a model that is only evaluated needs none.

        Raises:
            RuntimeError: it is not loaded (`qat.models.loading.load_teacher_`).
        """
        if self.teacher_path and self.teacher is None:
            raise RuntimeError(
                f"the teacher {self.teacher_path} is not loaded; call load_teacher_ before training"
            )

    # ---------------------------------------------------------------- the forward path
    def features(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Front end: samples `(B, S)` with `lengths (B,)` -> (input of the encoder, its frames `(B,)`)."""
        raise NotImplementedError

    def encode(self, inputs: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder and head: features -> (logits `(B, T, V)`, valid frames `(B,)`)."""
        raise NotImplementedError

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Samples `(B, S)` at 16 kHz in [-1, 1], `lengths (B,)` -> (logits `(B, T, V)`, frames `(B,)`)."""
        return self.encode(*self.features(signal, lengths))

    def decode(self, logits: Tensor, frames: Tensor) -> list[str]:
        """Greedy CTC: best label per frame, repeats merged, blanks dropped. `(B, T, V)` -> B strings."""
        best = logits.argmax(-1).cpu()
        return [self.labels_to_text(row[:count]) for row, count in zip(best, frames.tolist(), strict=True)]

    def labels_to_text(self, labels: Tensor) -> str:
        """Frame labels `(T,)` -> text."""
        symbols = [self.symbol(label) for label in range(len(self.vocabulary))]
        return GreedyCTC(symbols, self.blank).text_of(labels.numpy())

    # ---------------------------------------------------------------- text and labels
    @property
    def blank(self) -> int:
        """Index of the CTC blank."""
        return 0

    def symbol(self, label: int) -> str:
        """Text of one vocabulary entry."""
        return self.vocabulary[label]

    def labels(self, text: str) -> list[int]:
        """Text -> label indices.

        Raises:
            UserError: a character is not in the vocabulary.
        """
        table = {self.symbol(i): i for i in range(len(self.vocabulary)) if i != self.blank}
        try:
            return [table[character] for character in text]
        except KeyError as error:
            raise UserError(f"text {text!r}: {error} is not in the model's vocabulary") from None

    # ---------------------------------------------------------------- training
    def ctc_loss(self, logits: Tensor, frames: Tensor, texts: Sequence[str]) -> Tensor:
        """Mean over utterances of the CTC loss per label (float32 whatever the precision)."""
        labels = [torch.tensor(self.labels(text)) for text in texts]
        counts = torch.tensor([len(item) for item in labels])
        log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        targets = torch.cat(labels).to(logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            return F.ctc_loss(log_probs, targets, frames.cpu(), counts, blank=self.blank, zero_infinity=True)

    def on_fit_start(self) -> None:
        """Remember the seed that the run was started with (a random one where the user set none)."""
        self.noise_seed = torch.initial_seed()
        self.check_teacher()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make all noise of training a function of (seed, epoch, batch, rank): a resumed run draws the same.

        Stochastic rounding has its counter-based key; dropout and SpecAugment draw from the global generators of
        PyTorch and NumPy, which are seeded anew for every batch.
        """
        self.step_key.step = self.global_step
        self.step_key.rank = self.global_rank
        seed = hashed_seed(self.noise_seed, self.current_epoch, batch_idx, self.global_rank) % 2**64
        torch.manual_seed(seed >> 1)
        np.random.seed(seed % 2**32)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on transcripts, and on the teacher's posteriors where there is one."""
        loss = (
            self.transcript_loss(batch)
            if self.teacher is None
            else self.distillation_loss(batch, self.teacher)
        )
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.texts))
        return loss

    def transcript_loss(self, batch: Batch) -> Tensor:
        """The CTC loss alone."""
        logits, frames = self(batch.signal, batch.lengths)
        return self.ctc_loss(logits, frames, batch.texts)

    def distillation_loss(self, batch: Batch, teacher: Teacher) -> Tensor:
        """Transcripts of the utterances that stay whole, and the teacher's posteriors of all."""
        labels = torch.tensor([len(text) for text in batch.texts], device=batch.signal.device)
        signal, lengths, labels, spliced = splice(batch.signal, batch.lengths, labels, self.splice_share)
        logits, frames = self(signal, lengths)
        whole = (~spliced).nonzero().flatten()
        loss = self.ctc_loss(logits[whole], frames[whole], [batch.texts[row] for row in whole.tolist()])
        divergence = teacher.loss(logits, frames, signal, lengths, labels)
        self.log("train/divergence", divergence, batch_size=len(batch.texts))
        return (1 - self.distillation_weight) * loss + self.distillation_weight * divergence

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and corpus word error rate (percent) on the dev split."""
        logits, frames = self(batch.signal, batch.lengths)
        loss = self.ctc_loss(logits, frames, batch.texts)
        self.val_wer.update(self.decode(logits, frames), batch.texts)
        self.log("val/loss", loss, batch_size=len(batch.texts), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's error rate."""
        self.log("val/wer", 100.0 * self.val_wer.compute(), prog_bar=True, sync_dist=True)  # the same on all
        self.val_wer.reset()

    def configure_optimizers(self) -> Any:
        """AdamW with groups for matrices, vectors and quantizer scales; linear warm-up, cosine decay."""
        groups = parameter_groups(self, self.weight_decay, self.quantizer_learning_rate)
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.98))
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, steps, self.warmup_steps, self.final_lr_ratio)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---------------------------------------------------------------- folding and checkpoints
    def batch_norm_pairs(self) -> Iterator[tuple[str, nn.Module, nn.Module]]:
        """Yield (name of the norm, producing layer, `nn.BatchNorm1d`) wherever the norm can be folded."""
        return iter(())

    def fold_batch_norm(self) -> list[str]:
        """Fold every foldable BatchNorm into the layer before it (in place, once); names of the folded ones."""
        for name, layer, norm in list(self.batch_norm_pairs()):
            fold_batch_norm_(layer, norm)
            parent = self.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Identity())
            self.folded.append(name)
        return self.folded

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilding needs besides the hyper-parameters."""
        checkpoint["model"] = model_path(self)
        checkpoint["folded"] = list(self.folded)
        checkpoint["reconstruction"] = [dict(item) for item in self.reconstruction]
        checkpoint["vocabulary"] = list(self.vocabulary)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Bring the structure to the checkpoint's before its weights are loaded."""
        self.reconstruction = [dict(item) for item in checkpoint.get("reconstruction", [])]
        if checkpoint.get("folded") and not self.folded:
            self.fold_batch_norm()

    def quantize(self, enabled: bool = True) -> None:
        """Switch every quantizer on or off (off computes exactly the plain float model)."""
        set_enabled_(self, enabled)


def model_path(module: nn.Module) -> str:
    """Import path of a module's class, as a checkpoint and a config name it."""
    return f"qat.models.{type(module).__name__}"


def _first_problem(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0]
