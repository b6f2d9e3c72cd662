"""Calibrated cells and stacks of them, with inputs and states of many rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.layers.state import set_enabled_
from qat.layers.step_lstm import StepLSTM
from qat.layers.swap import swap_
from tests.layers.hosts import calibrated, recipe

ROWS, FRAMES, INPUTS, HIDDEN = 37, 5, 13, 29  # odd: vectors of the processor leave a rest
FORMS: dict[str, dict[str, Any]] = {
    "one range": {},
    "by frame": {"activation_granularity": "frame"},
    "four bits": {"weight_bits": 4, "activation_bits": 4},
    "two bits signed": {"weight_bits": 2, "activation_signed": True},
}
LAYERS: dict[str, tuple[Any, int]] = {  # how it is built, and L D where it is stacked
    "gru_cell": (lambda: nn.GRUCell(INPUTS, HIDDEN), 0),
    "lstm_cell": (lambda: nn.LSTMCell(INPUTS, HIDDEN), 0),
    "step_lstm": (lambda: StepLSTM(INPUTS, HIDDEN, 2), 2),
    "gru": (lambda: nn.GRU(INPUTS, HIDDEN, 2, batch_first=True, bidirectional=True), 4),
}
forms = pytest.mark.parametrize("form", FORMS)
layers = pytest.mark.parametrize("kind", LAYERS)


class Called(nn.Module):
    """A layer on an input and one or two states packed into a list; its outputs as a list."""

    def __init__(self, layer: nn.Module, states: list[Tensor]) -> None:
        super().__init__()
        self.layer, self.states = layer, states

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.on(x, self.states)

    def on(self, x: Tensor, states: list[Tensor]) -> list[Tensor]:
        return flat(self.layer(x, tuple(states) if len(states) > 1 else states[0]))


def flat(values: Any) -> list[Tensor]:
    """The tensors in nested tuples."""
    return [values] if isinstance(values, Tensor) else [item for part in values for item in flat(part)]


def built(kind: str, **fields: Any) -> tuple[Any, Tensor]:
    """A calibrated, enabled layer with states, and its input, rows of which differ in loudness."""
    torch.manual_seed(0)
    build, depth = LAYERS[kind]
    x = torch.randn(ROWS, FRAMES, INPUTS) * torch.logspace(-2, 1, ROWS)[:, None, None]
    shape = (depth, ROWS, HIDDEN) if depth else (ROWS, HIDDEN)
    states = [torch.rand(shape) * 2 - 1, torch.randn(shape)][: 2 if "lstm" in kind else 1]
    model, x = Called(build(), states).eval(), x if depth else x[:, 0]
    swap_(model, recipe(**{"bits": 8, **fields}))
    calibrated(model, x)
    set_enabled_(model, True)
    return model, x
