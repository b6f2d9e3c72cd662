"""Coverage counts what a hand count finds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qat.layers.coverage import count_macs, coverage, side_in_float
from qat.layers.state import calibrate_weights_, set_enabled_
from qat.layers.step_lstm import StepLSTM
from qat.layers.swap import swap_
from qat.recipe import Recipe
from qat.rule import Rule


class Model(nn.Module):
    """Convolution, LSTM, attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 5, padding=2, groups=1)
        self.rnn = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rnn(self.conv(x).transpose(1, 2))[0]
        x = nn.functional.scaled_dot_product_attention(x, x, x)
        return self.head(x) + (x @ x.transpose(1, 2)).sum() * 0


HAND = {
    "conv": 2 * 7 * 8 * 15,
    "rnn": 2 * 7 * 2 * 24 * (8 + 6),
    "head": 2 * 7 * 12 * 5,
    "attention": 3 * 2 * 7 * 7 * 12,
}


def test_macs_equal_a_hand_count_float_and_quantized() -> None:
    model, x = Model().eval(), torch.randn(2, 3, 7)
    assert count_macs(model, lambda: model(x)) == HAND
    swap_(model, Recipe(preset="test", activation_bits=8, rules=[Rule("rnn"), Rule("*", activation_bits=0)]))
    calibrate_weights_(model)
    set_enabled_(model, True)
    assert count_macs(model, lambda: model(x)) == HAND
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_shares_leave_float_layers_and_attention_out() -> None:
    model, x = Model().eval(), torch.randn(2, 3, 7)
    swap_(model, Recipe(preset="test", rules=[Rule("head", quantize=False), Rule("conv", weight_bits=0)]))
    shares = coverage(model, count_macs(model, lambda: model(x)))
    weights = {"conv": 120, "rnn": 2 * 24 * 14, "head": 60}
    assert shares["weights"] == weights["rnn"] / sum(weights.values())
    assert shares["macs"] == HAND["rnn"] / sum(HAND.values())
    assert (shares["layers_quantized"], shares["layers_total"]) == (1, 3)
    assert shares["skipped"] == ["conv", "head"]
    bits = 8 * weights["rnn"] + 32 * (weights["conv"] + weights["head"])
    assert shares["mean_weight_bits"] == bits / sum(weights.values())
    layers = sum(HAND.values()) - HAND["attention"]
    assert shares["mean_activation_bits"] == (8 * HAND["rnn"] + 8 * HAND["conv"] + 32 * HAND["head"]) / layers
    assert coverage(model)["macs"] is coverage(model)["mean_activation_bits"] is None


def test_weights_alone_count_as_stored_but_not_as_computed() -> None:
    model, x = Model().eval(), torch.randn(2, 3, 7)
    swap_(
        model,
        Recipe(
            preset="test", weight_bits=4, rules=[Rule("conv", activation_bits=0), Rule("head", weight_bits=0)]
        ),
    )
    shares = coverage(model, count_macs(model, lambda: model(x)))
    assert shares["weights"] == (120 + 2 * 24 * 14) / (120 + 2 * 24 * 14 + 60)
    assert shares["macs"] == HAND["rnn"] / sum(HAND.values())
    assert (shares["layers_quantized"], shares["skipped"]) == (1, ["conv", "head"])
    assert side_in_float(model.conv).startswith("weights stored in 4 bits, activations float")
    assert side_in_float(model.head).startswith("activations rounded to 8 bits, weights float")
    assert side_in_float(model.rnn) == ""


class Stepwise(nn.Module):
    """An embedding, cells that are called at each of 7 frames, and a sequence in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 3)
        self.gru_cell, self.lstm_cell = nn.GRUCell(3, 4), nn.LSTMCell(4, 5)
        self.step, self.gru = StepLSTM(5, 6, 2), nn.GRU(6, 2, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        state, outputs = None, []
        for frame in self.embedding(ids).unbind(1):
            hidden = self.lstm_cell(self.gru_cell(frame))[0]
            output, state = self.step.step(hidden, state)
            outputs.append(output)
        return self.gru(torch.stack(outputs, 1))[0]


def test_cells_and_embeddings_equal_a_hand_count() -> None:
    model, ids = Stepwise().eval(), torch.arange(14).reshape(2, 7) % 11
    weights = {
        "embedding": 33,
        "gru_cell": 12 * 7,
        "lstm_cell": 20 * 9,
        "step": 24 * (5 + 6) + 24 * 12,
        "gru": 6 * 8,
    }
    hand = {name: 0 if name == "embedding" else 14 * count for name, count in weights.items()}
    assert count_macs(model, lambda: model(ids)) == hand
    swap_(model, Recipe(preset="test", rules=[Rule("lstm_cell", quantize=False)]))
    shares = coverage(model, count_macs(model, lambda: model(ids)))
    assert shares["weights"] == 1 - weights["lstm_cell"] / sum(weights.values())
    assert shares["macs"] == 1 - hand["lstm_cell"] / sum(hand.values())
    assert (shares["layers_quantized"], shares["layers_total"], shares["skipped"]) == (4, 5, ["lstm_cell"])
