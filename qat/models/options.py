"""Option groups of the models.

The command line, the hyper-parameters in a checkpoint and the classes share these fields, each stated once. A model's
options inherit from several groups, so that they stay flat (`--model.learning_rate`); Python lists the fields of the
last base first.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from qat.system.errors import UserError

MOST_LAYERS = 1000  # of one kind: more would be built for hours


@dataclass(frozen=True)
class Options:
    """What all groups inherit from: each checks its own fields and leaves the others to the next group."""

    def __post_init__(self) -> None:
        pass

    def check(self, names: tuple[str, ...], low: float, high: float = float("inf"), kind: str = "") -> None:
        """Refuse values outside [low, high], NaN and infinity.

        Args:
            names: of the fields.
            low: smallest value allowed.
            high: largest value allowed.
            kind: what the message calls a value, such as "an integer ".

        Raises:
            UserError: naming the field and its value.
        """
        allowed = (
            f"{kind}{'of ' if kind else ''}at least {low}"
            if high == float("inf")
            else f"{kind}from {low} to {high}"
        )
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not isfinite(value) or not low <= value <= high:
                raise UserError(f"{name}: {value}, must be {allowed}")

    def check_each(self, names: tuple[str, ...], low: float) -> None:
        """Refuse lists without entries, and entries below `low`.

        Raises:
            UserError: naming the field and its value.
        """
        for name in names:
            values = getattr(self, name)
            if not values or min(values) < low:
                raise UserError(f"{name}: {values}, must be a list of integers of at least {low:g}")


@dataclass(frozen=True)
class OptimizerOptions(Options):
    """AdamW with linear warm-up and cosine decay.

    Args:
        learning_rate: peak rate of AdamW for the weights.
        quantizer_learning_rate: peak rate for learned scales.
        weight_decay: for matrices and kernels only; biases, norms and scales have none.
        warmup_steps: optimiser steps of linear warm-up before the cosine decay.
        final_lr_ratio: learning rate at the last step over the peak, in [0, 1].

    Raises:
        UserError: a value outside its range.
    """

    learning_rate: float = 1e-3
    quantizer_learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    warmup_steps: int = 100
    final_lr_ratio: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(("learning_rate", "quantizer_learning_rate", "weight_decay"), 0)
        self.check(("warmup_steps",), 0, kind="an integer ")
        self.check(("final_lr_ratio",), 0, 1)


@dataclass(frozen=True)
class DistillationOptions(Options):
    """Training on a float model's frame posteriors beside the transcript.

    Args:
        teacher: float model (checkpoint, or Hugging Face folder or name) whose frame posteriors training follows; None:
            transcripts only.
        distillation_weight: share of the teacher in the loss, in [0, 1]; the transcript has the rest.
        splice_share: share of a batch made of two utterances each, which the teacher alone can label, in [0, 1].

    Raises:
        UserError: a share or weight outside its range, or splicing without a teacher.
    """

    teacher: str | None = None
    distillation_weight: float = 0.5
    splice_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(("distillation_weight", "splice_share"), 0, 1)
        if self.splice_share and not self.teacher:
            raise UserError(
                f"splice_share: {self.splice_share}, must be 0 without a teacher; name one with --model.teacher"
            )


@dataclass(frozen=True)
class TrainingOptions(DistillationOptions, OptimizerOptions):
    """What every model needs to know to be trained: optimiser, distillation and compilation.

    Args:
        compile: train under torch.compile: slow first steps, faster ones after.
    """

    compile: bool = False
