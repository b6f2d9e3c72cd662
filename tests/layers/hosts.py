"""A model of one layer of each kind, calibrated and switched on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from qat.layers.base import QuantLayer
from qat.layers.conv import QuantConv1d, QuantConv2d
from qat.layers.embedding import QuantEmbedding
from qat.layers.gru import QuantGRU
from qat.layers.gru_cell import QuantGRUCell
from qat.layers.linear import QuantLinear
from qat.layers.lstm import QuantLSTM
from qat.layers.lstm_cell import QuantLSTMCell
from qat.layers.state import (
    calibrate_weights_,
    finish_calibration_,
    set_enabled_,
    set_observing_,
)
from qat.layers.step_lstm import QuantStepLSTM, StepLSTM
from qat.layers.swap import swap_
from qat.recipe import Recipe

KINDS: dict[str, tuple[type[QuantLayer], Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (QuantLinear, lambda: nn.Linear(12, 6), (3, 7, 12)),
    "conv1d": (QuantConv1d, lambda: nn.Conv1d(6, 8, 3, padding=1), (3, 6, 20)),
    "grouped": (QuantConv1d, lambda: nn.Conv1d(6, 6, 4, groups=3, bias=False), (3, 6, 20)),
    "conv2d": (QuantConv2d, lambda: nn.Conv2d(2, 4, 3, stride=2), (2, 2, 9, 11)),
    "lstm": (QuantLSTM, lambda: nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True), (3, 9, 5)),
    "step_lstm": (QuantStepLSTM, lambda: StepLSTM(5, 6, 2), (3, 9, 5)),
    "gru": (QuantGRU, lambda: nn.GRU(5, 6, 2, bidirectional=True), (9, 3, 5)),
    "gru_cell": (QuantGRUCell, lambda: nn.GRUCell(5, 6), (9, 5)),
    "lstm_cell": (QuantLSTMCell, lambda: nn.LSTMCell(5, 6), (9, 5)),
    "embedding": (QuantEmbedding, lambda: nn.Embedding(7, 6), (9, 30)),
}


kinds = pytest.mark.parametrize("layer_kind", KINDS)
multiplying_kinds = pytest.mark.parametrize("layer_kind", [kind for kind in KINDS if kind != "embedding"])
cells = pytest.mark.parametrize("layer_kind", ["step_lstm", "gru", "gru_cell", "lstm_cell"])


class Host(nn.Module):
    """A model of one layer, twice around a cell: the second time its state is not zero."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.layer, nn.Embedding):  # a number from 0 to 6 for each value
            x = x.mul(3.0).long().remainder(self.layer.num_embeddings)
        out = self.layer(x)
        if isinstance(self.layer, nn.RNNCellBase):
            out = self.layer(x, out)
        return out[0] if isinstance(out, tuple) else out


def host(layer_kind: str) -> tuple[Host, torch.Tensor]:
    torch.manual_seed(0)
    _, build, shape = KINDS[layer_kind]
    return Host(build()).eval(), torch.randn(shape)


def recipe(bits: int = 8, **fields: object) -> Recipe:
    values = {"reduce_range": False, "weight_bits": bits, "activation_bits": bits, **fields}
    return Recipe(preset="test", **values)  # type: ignore[arg-type]


@torch.no_grad()
def calibrated(model: nn.Module, x: torch.Tensor) -> nn.Module:
    calibrate_weights_(model)
    set_observing_(model, True)
    model(x)
    set_observing_(model, False)
    finish_calibration_(model)
    return model


def enabled(layer_kind: str, bits: int = 8, **fields: object) -> tuple[Host, torch.Tensor]:
    model, x = host(layer_kind)
    swap_(model, recipe(bits, **fields))
    calibrated(model, x)
    set_enabled_(model, True)
    return model, x
