"""A recogniser that emits one label per frame: its labels, greedy decoding, CTC loss and error rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torchmetrics.text import WordErrorRate

from datamodules.batch import Batch
from datamodules.text import ALPHABET
from qat.decoding.ctc import GreedyCTC
from qat.layers.base import device_of
from qat.layers.masking import to_device_of
from qat.layers.repeatable import repeatable
from qat.models.alignable import Unalignable
from qat.models.base import RecipeModule
from qat.models.distillation import Teacher, splice
from qat.models.options import TrainingOptions
from qat.recipe import Recipe
from qat.system.errors import UserError

BLANK = "<blank>"
VOCABULARY: tuple[str, ...] = (BLANK, *ALPHABET)


class CTCModule(RecipeModule):
    """A speech recogniser trained with CTC (Graves 2006), and with a teacher's posteriors where there is one.

    Args:
        recipe: see `RecipeModule`.
        init_from: see `RecipeModule`.
        options: of the subclass.
    """

    def __init__(
        self, recipe: Recipe | dict[str, Any] | None, init_from: str | None, options: TrainingOptions
    ) -> None:
        super().__init__(recipe, init_from, options)
        self.teacher: Teacher | None = None
        self.validated_on = "cpu"  # device type of the dev error rates of a quantized model
        self.vocabulary: list[str] = list(VOCABULARY)
        self.val_wer = WordErrorRate()
        self.unalignable = Unalignable()

    # ---------------------------------------------------------------- text and labels
    @property
    def blank(self) -> int:
        """Index of the CTC blank."""
        return 0

    @property
    def frame_samples(self) -> int:
        """Samples from the beginning of one frame of logits to the next."""
        raise NotImplementedError

    def emitted_frames(self, samples: int) -> int:
        """Frames of logits for an utterance of so many samples."""
        raise NotImplementedError

    @property
    def label_names(self) -> list[str]:
        """What it emits, in order: a teacher must have the same."""
        return list(self.vocabulary)

    def symbol(self, label: int) -> str:
        """Text of one vocabulary entry."""
        return self.vocabulary[label]

    @property
    def symbols(self) -> list[str]:
        """Text of each label."""
        return [self.symbol(label) for label in range(len(self.vocabulary))]

    def labels(self, text: str) -> list[int]:
        """Text -> label indices.

        Raises:
            UserError: a character is not in the vocabulary.
        """
        table = {symbol: label for label, symbol in enumerate(self.symbols) if label != self.blank}
        try:
            return [table[character] for character in text]
        except KeyError as error:
            raise UserError(
                f"text {text!r}: {error} is not in the model's vocabulary; take it out of the transcript"
            ) from None

    def decode(self, logits: Tensor, frames: Tensor) -> list[str]:
        """Greedy CTC: best label per frame, repeats merged, blanks dropped. `(B, T, V)` -> B strings."""
        best = logits.argmax(-1).cpu()
        return [self.labels_to_text(row[:count]) for row, count in zip(best, frames.tolist(), strict=True)]

    def labels_to_text(self, labels: Tensor) -> str:
        """Best label of each frame `(T,)` -> text."""
        return GreedyCTC(self.symbols, self.blank).text_of(labels.numpy())

    # ---------------------------------------------------------------- training
    def on_fit_start(self) -> None:
        """See `RecipeModule`; training follows the teacher that the options name.

        Raises:
            RuntimeError: it is not loaded (`qat.models.loading.load_teacher_`); evaluation alone needs none.
        """
        super().on_fit_start()
        if self.recipe.active and (kind := device_of(self).type) != "cpu":
            self.validated_on = kind
            rank_zero_info(
                "dev error rates: in training's arithmetic on this GPU; the report measures the exported file"
            )
        if self.options.teacher and self.teacher is None:
            raise RuntimeError(
                f"the teacher {self.options.teacher} is not loaded; call load_teacher_ before training"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on transcripts, and on the teacher's posteriors where there is one."""
        with repeatable():
            loss = (
                self.transcript_loss(batch)
                if self.teacher is None
                else self.distillation_loss(batch, self.teacher)
            )
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.texts))
        return loss

    def posteriors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run every layer on a batch of one utterance: all logits that it emits `(1, T, V)`, and their number `(1,)`.

        What calibration, AdaRound and the counting of layers and products call.
        """
        logits, frames = self(batch.signal, batch.lengths)
        return logits, frames

    def emissions(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """What every head emits on a batch of any size: logits `(B, T, V)`, and how many are valid `(B,)`."""
        return [self(batch.signal, batch.lengths)]

    def transcript_loss(self, batch: Batch) -> Tensor:
        """The CTC loss alone."""
        logits, frames = self(batch.signal, batch.lengths)
        return self.ctc_loss(logits, frames, batch.texts)

    def distillation_loss(self, batch: Batch, teacher: Teacher) -> Tensor:
        """Transcripts of the utterances that stay whole, and the teacher's posteriors of all."""
        options = self.options
        labels = torch.tensor([len(text) for text in batch.texts], device="cpu")
        signal, lengths, labels, spliced = splice(batch.signal, batch.lengths, labels, options.splice_share)
        logits, frames = self(signal, lengths)
        whole = (~spliced).nonzero().flatten()
        texts = [batch.texts[row] for row in whole.tolist()]
        loss = self.ctc_loss(logits[to_device_of(logits, whole)], frames[whole], texts)
        divergence = teacher.loss(logits, frames, signal, lengths, labels)
        self.log("train/divergence", divergence, batch_size=len(batch.texts))
        return (1 - options.distillation_weight) * loss + options.distillation_weight * divergence

    def ctc_loss(self, logits: Tensor, frames: Tensor, texts: Sequence[str]) -> Tensor:
        """Mean over utterances of the CTC loss per label (float32 whatever the precision).

        Args:
            logits: `(B, T, V)`.
            frames: valid frames `(B,)`; on the CPU where nothing is to wait for a GPU.
            texts: B transcripts.

        Raises:
            UserError: in training, more texts than allowed do not fit into their frames, whose loss is 0.
        """
        labels = [self.labels(text) for text in texts]
        if self.training:
            self.unalignable.add(labels, frames.tolist(), texts)
        counts = torch.tensor([len(item) for item in labels], device="cpu")
        log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        together = torch.tensor([label for item in labels for label in item], dtype=torch.int64, device="cpu")
        targets = to_device_of(logits, together)
        with torch.autocast(logits.device.type, enabled=False):
            return F.ctc_loss(log_probs, targets, frames.cpu(), counts, blank=self.blank, zero_infinity=True)

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

    # ---------------------------------------------------------------- checkpoints
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `RecipeModule`; the labels as well."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["vocabulary"] = self.label_names
        if self.validated_on != "cpu":
            checkpoint["validated_on"] = self.validated_on

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `RecipeModule`."""
        super().on_load_checkpoint(checkpoint)
        self.validated_on = checkpoint.get("validated_on", "cpu")
