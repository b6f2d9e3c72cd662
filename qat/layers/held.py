"""Weights that a loop over time reads at every step, quantized once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

Value = TypeVar("Value")


class Held:
    """What a weight's quantizer gave in the running loop."""

    def __init__(self) -> None:
        self.kept: dict[tuple[Any, ...], Any] = {}

    def first(self, what: str, make: Callable[[], Value]) -> Value:
        """`make()`, made once: with and without gradients, inside and outside of autocast.

        Args:
            what: name of the value.
            make: makes it.
        """
        key = (
            what,
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_enabled("cuda"),
        )
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


@contextmanager
def held_weights(*parts: nn.Module) -> Iterator[None]:
    """While active, the quantized weights of some modules are computed at their first reading and kept.

    For a loop over time that no optimiser step, switch or calibration interrupts. Gradients are the same: each weight
    is one node of the graph, whatever the number of steps.
    """
    found: list[Any] = [item for part in parts for item in part.modules() if hasattr(item, "held")]
    before = [item.held for item in found]
    for item in found:
        item.held = item.held or Held()
    try:
        yield
    finally:
        for item, old in zip(found, before, strict=True):
            item.held = old
