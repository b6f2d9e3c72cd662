"""What a search for a recipe is asked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from qat.system.errors import UserError

BUDGETS = ("max_loss", "max_latency", "max_size_mb")
BITS = (8, 4, 3, 2)
LEAST = {"utterances": 1, "calibration_utterances": 1, "seed": 0, "threads": 1}


@dataclass(frozen=True)
class SearchOptions:
    """What a search for a recipe is asked; at most one budget.

    Args:
        max_loss: divergence of the posteriors from the float model's, nats per frame: the fastest recipe within it.
            None, and no other budget: the largest with which dev shows no loss.
        max_latency: milliseconds of an utterance of dev on average: the recipe that loses least within it.
        max_size_mb: of the exported file: the recipe that loses least within it.
        bits: of weights that are tried.
        utterances: of training, held out from calibration, on which divergences are measured.
        calibration_utterances: of training, which calibrate the activations.
        seed: of the draw of both, and of the bootstrap.
        threads: of the engine whose times are measured.

    Raises:
        UserError: naming the field and what it must be.
    """

    max_loss: float | None = None
    max_latency: float | None = None
    max_size_mb: float | None = None
    bits: list[int] = field(default_factory=lambda: [8, 4])
    utterances: int = 16
    calibration_utterances: int = 128
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for name in BUDGETS:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"search: {name} {value!r} must be a number above 0; leave it out for none")
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"search: {' and '.join(given)} must be one budget; leave all but one out")
        if not self.bits or any(bits not in BITS for bits in self.bits):
            raise UserError(f"search: bits {self.bits!r} must be some of {', '.join(map(str, BITS))}")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value < 2**63:
                raise UserError(f"search: {name} {value!r} must be a whole number from {least}")

    @property
    def budget(self) -> str:
        """The budget that is given; `max_loss` where none is."""
        return next((name for name in BUDGETS if getattr(self, name) is not None), BUDGETS[0])

    @property
    def limit(self) -> float | None:
        """Its value; None where dev is to decide."""
        value = getattr(self, self.budget)
        return None if value is None else float(value)

    def measured_by(self) -> dict[str, Any]:
        """What measurements depend on, as builtins: budgets and candidates may change between two searches."""
        every = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in every.items() if name not in (*BUDGETS, "bits")}
