"""What all models share, whatever they emit: recipe, float start, noise, optimiser, folding and checkpoint hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.batch import Batch
from qat.layers.equalize import ScalePair
from qat.layers.fold import fold_batch_norm_
from qat.layers.quantizer import StepKey
from qat.layers.state import set_enabled_
from qat.layers.swap import SwapReport, set_step_key_, swap_
from qat.models.checkpoint import load_float_weights_, model_path
from qat.models.compiling import Compiled, check_compiler
from qat.models.optimizer import adamw, parameter_groups, warmup_cosine
from qat.models.options import TrainingOptions
from qat.recipe import Recipe
from qat.system.errors import UserError
from qat.system.seeds import hashed_seed


class RecipeModule(LightningModule, ABC):
    """A LightningModule whose layers follow a quantization recipe.

    Subclasses build their float layers, call `finish_build`, and give `features` and `encode`.

    Args:
        recipe: what is quantized and how; a `Recipe` or its `to_dict()`.
        init_from: float checkpoint whose weights the model starts from; None starts from random weights.
        options: of the subclass.

    Attributes:
        groups: name of a group of layers -> globs on dotted names; what rules of a recipe may name.
        readers: names of layers that read the very same tensor where they are children of one module.
        kept_float: glob on dotted names -> why these layers stay float, unless a rule speaks of none but such layers.
        compiled_functions: names of the static methods that are compiled beside `compiled_parts`.
    """

    groups: dict[str, list[str]] = {}
    readers: Sequence[Sequence[str]] = ()
    kept_float: dict[str, str] = {}
    compiled_functions: tuple[str, ...] = ()

    def __init__(
        self, recipe: Recipe | dict[str, Any] | None, init_from: str | None, options: TrainingOptions
    ) -> None:
        super().__init__()
        self.recipe = (
            Recipe.from_dict(recipe) if isinstance(recipe, dict) else recipe or Recipe()
        ).resolved()
        self.init_from = init_from
        self.options = options
        self.folded: list[str] = []
        self.equalized: list[dict[str, Any]] = []  # what equalization did to each pair of layers
        self.reconstruction: list[dict[str, Any]] = []  # what AdaRound and bias correction did to each layer
        self.swap_report = SwapReport([], [])
        self.step_key = StepKey(seed=self.recipe.seed)
        self.noise_seed = 0
        self.compiled: Compiled | None = None

    # ---------------------------------------------------------------- building
    def hyper_parameters(self) -> dict[str, Any]:
        """Recipe and options as flat builtins (`init_from` is spent once the weights are in)."""
        return {"recipe": self.recipe.to_dict(), **asdict(self.options)}

    def finish_build(self) -> None:
        """Load the float start, then swap the recipe's layers in (bypassed until calibration switches them on)."""
        if self.init_from:
            load_float_weights_(self, self.init_from)
        if self.recipe.active:
            self.swap_report = swap_(self, self.recipe, self.groups, self.readers, self.kept_float)
            if self.recipe.attention_bits:
                self.quantize_attention_()
            set_step_key_(self, self.step_key)

    def quantize_attention_(self) -> None:
        """Quantize the products of self-attention, as the recipe says.

        Raises:
            UserError: the model has none, or the recipe cannot have them on integers.
        """
        raise UserError(
            f"qat.attention_bits: {self.recipe.attention_bits}, must be 0: {type(self).__name__} has no self-attention"
        )

    # ---------------------------------------------------------------- the forward path
    @abstractmethod
    def features(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Front end: samples `(B, S)` with `lengths (B,)` -> (input of the encoder, its frames `(B,)`)."""

    @abstractmethod
    def encode(self, inputs: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder and head: features -> (logits `(B, T, V)`, valid frames `(B,)`)."""

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Samples `(B, S)` at 16 kHz in [-1, 1], `lengths (B,)` -> (logits `(B, T, V)`, frames `(B,)`)."""
        if self.compiled is not None and self.training:
            self.compiled.prepare_step_(self.step_key)
        return self.encode(*self.features(signal, lengths))

    def quantize(self, enabled: bool = True) -> None:
        """Switch every quantizer on or off (off computes exactly the plain float model)."""
        set_enabled_(self, enabled)

    def compiled_parts(self) -> Iterator[nn.Module]:
        """Yield the modules that `--model.compile true` compiles, none inside another."""
        return iter(())

    # ---------------------------------------------------------------- training
    def setup(self, stage: str) -> None:
        """Find out whether training can be compiled, where it is to be.

        Raises:
            UserError: it cannot.
        """
        if stage == "fit" and self.options.compile:
            check_compiler(self.trainer.strategy.root_device)

    def on_fit_start(self) -> None:
        """Remember the seed that the run was started with (a random one where the user set none)."""
        self.noise_seed = torch.initial_seed()

    def on_train_start(self) -> None:
        """Compile: by now folding, calibration and AdaRound have changed what they change."""
        if self.options.compile:
            self.compiled = Compiled(self, self.compiled_parts(), self.compiled_functions)

    def on_train_end(self) -> None:
        """Hand plain modules to the report."""
        if self.compiled is not None:
            rank_zero_info(self.compiled.stop_())
            self.compiled = None

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

    def configure_optimizers(self) -> Any:
        """AdamW with groups for matrices, vectors and quantizer scales; linear warm-up, cosine decay."""
        options = self.options
        groups = parameter_groups(self, options.weight_decay, options.quantizer_learning_rate)
        scales_gradients = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        may_fuse = not (scales_gradients and self.trainer.gradient_clip_val)
        optimizer = adamw(groups, options.learning_rate, may_fuse)
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, steps, options.warmup_steps, options.final_lr_ratio)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, under `bf16-mixed` with a fused optimiser as well.

        Lightning refuses one there, as it would take the scale off gradients after they were clipped; bfloat16 has no
        scale.
        """
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            kind = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, kind)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

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

    def scale_pairs(self) -> Iterator[ScalePair]:
        """Yield what equalization may scale, and neighbours that it may not, with the reason."""
        return iter(())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilding needs besides the hyper-parameters."""
        checkpoint["model"] = model_path(self)
        checkpoint["folded"] = list(self.folded)
        checkpoint["equalized"] = [dict(item) for item in self.equalized]
        checkpoint["reconstruction"] = [dict(item) for item in self.reconstruction]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Bring the structure to the checkpoint's before its weights are loaded."""
        self.reconstruction = [dict(item) for item in checkpoint.get("reconstruction", [])]
        self.equalized = [dict(item) for item in checkpoint.get("equalized", [])]
        if checkpoint.get("folded") and not self.folded:
            self.fold_batch_norm()
