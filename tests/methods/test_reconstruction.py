"""Layers as matrix products: the rows times the weights are the layer's own output, and moments merge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from qat.layers.lstm import QuantLSTM
from qat.layers.state import calibrate_weights_, set_enabled_
from qat.layers.swap import swap_
from qat.methods.reconstruction import QUIET, LinearMap, Moments, linear_maps
from qat.recipe import Recipe

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (1, 9, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (1, 4, 17)),
    "dilated": (lambda: nn.Conv1d(4, 6, 3, dilation=2), (1, 4, 17)),
    "grouped": (lambda: nn.Conv1d(6, 6, 4, groups=3, padding=2, bias=False), (1, 6, 15)),
    "conv2d": (lambda: nn.Conv2d(3, 5, (3, 2), stride=(1, 2), padding=(1, 0)), (1, 3, 8, 9)),
    "reflected": (lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="reflect"), (1, 4, 17)),
}


def quantized(layer: nn.Module, weight_bits: int = 3, **fields: Any) -> nn.Module:
    """A model of one layer with quantized weights and float activations, switched on."""
    model = nn.Sequential(layer)
    swap_(model, Recipe(preset="x", weight_bits=weight_bits, activation_bits=None, ada_round=True, **fields))
    calibrate_weights_(model)
    set_enabled_(model, True)
    return model.eval()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weights_are_the_output(name: str) -> None:
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    model = quantized(build())
    layer: Any = model[0]  # type: ignore[index]
    item = LinearMap("0", layer)
    x = torch.randn(shape)
    product = item.rows(x, True, generator()) @ item.weight.transpose(1, 2)  # (G, N, O)
    with torch.no_grad():
        expected = layer.to_float()(x)
    if layer.bias is not None:
        expected = expected - layer.bias.detach().reshape(
            -1, *[1] * (0 if name == "linear" else len(shape) - 2)
        )
    expected = expected.reshape(-1, 5) if name == "linear" else expected[0].flatten(1).t()
    torch.testing.assert_close(product.transpose(0, 1).flatten(1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_scatter_inverts_gather(name: str) -> None:
    model = quantized(LAYERS[name][0]())
    layer: Any = model[0]  # type: ignore[index]
    item = LinearMap("0", layer)
    for weight, _, share in item.scatter(item.weight):
        assert torch.equal(weight, share)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_lstm_rows_give_the_gate_pre_activations(bidirectional: bool, packed: bool) -> None:
    """Of each inner layer: recomputing the cell from `[x, h]` times the joined weights gives the layer's outputs."""
    torch.manual_seed(0)
    model = quantized(nn.LSTM(4, 3, num_layers=2, batch_first=True, bidirectional=bidirectional))
    layer: Any = model[0]  # type: ignore[index]
    x = torch.randn(1, 7, 4)
    fed: Any = pack_padded_sequence(x, torch.tensor([7]), batch_first=True) if packed else x
    maps = linear_maps("rnn", layer)
    assert [item.name for item in maps] == ["rnn.l0", "rnn.l1"]
    outputs = layer.to_float()(x)[0][0]  # of the last inner layer, (T, D H)
    rows = maps[1].rows(fed, False, generator())
    gates = rows @ maps[1].weight.transpose(1, 2)  # (D, T, 4H)
    biases = torch.stack([torch.cat([b]) for b in maps[1].biases])
    names = layer._all_weights[layer.directions : 2 * layer.directions]
    biases = biases + torch.stack([getattr(layer, name[3]) for name in names])
    hidden = torch.cat([run_cell(g, b) for g, b in zip(gates, biases, strict=True)], dim=1)
    if bidirectional:
        backward = run_cell(gates[1].flip(0), biases[1]).flip(0)
        hidden = torch.cat([run_cell(gates[0], biases[0]), backward], dim=1)
    torch.testing.assert_close(hidden, outputs, atol=1e-5, rtol=1e-5)


def run_cell(gates: Tensor, bias: Tensor) -> Tensor:
    """Outputs `(T, H)` from pre-activations `(T, 4H)` in PyTorch's gate order i, f, g, o."""
    cell, outputs = torch.zeros(gates.shape[1] // 4), []
    for frame in gates + bias:
        i, f, g, o = frame.chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        outputs.append(o.sigmoid() * cell.tanh())
    return torch.stack(outputs)


def test_the_quantized_side_of_an_lstm_is_on_the_kernels_levels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LSTM(4, 3, batch_first=True))
    swap_(model, Recipe(preset="x", weight_bits=4))
    calibrate_weights_(model)
    set_enabled_(model, True)
    layer: Any = model.eval()[0]
    assert isinstance(layer, QuantLSTM) and layer.dynamic
    x = torch.randn(9, 4)
    rows = layer.states_beside(0, x, True)[0]
    scale = (x.max() - x.min()) / 255
    levels = rows[:, :4] / scale
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert not torch.equal(rows[:, :4], x)


def test_moments_of_parts_merge_to_those_of_the_whole() -> None:
    x, error = torch.randn(2, 40, 3), 0.1 * torch.randn(2, 40, 3)
    whole, parts = Moments(), Moments()
    whole.add(x + error, x)
    for part in (slice(0, 13), slice(13, 40)):
        parts.add((x + error)[:, part], x[:, part])
    assert whole.count == parts.count == 40
    for one, two in zip(whole.split(), parts.split(), strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(whole.split()[3], (x + error).mean(1))


def test_error_and_mean_error_are_those_of_the_outputs() -> None:
    torch.manual_seed(0)
    model = quantized(nn.Linear(6, 5))
    layer: Any = model[0]  # type: ignore[index]
    item, moments = LinearMap("0", layer), Moments()
    x = torch.randn(1, 50, 6)
    disturbed = x + 0.1 * torch.randn(1, 50, 6)
    moments.add(disturbed, x)
    outputs = disturbed @ item.quantized_weight.transpose(1, 2) - x @ item.weight.transpose(1, 2)
    assert item.error(moments) == pytest.approx(float(outputs.square().sum(2).mean()), rel=1e-4)
    torch.testing.assert_close(item.mean_error(moments), outputs.mean(1), atol=1e-5, rtol=1e-4)
    before = layer.bias.detach().clone()
    assert item.correct_bias_(moments)
    torch.testing.assert_close(layer.bias.detach(), before - outputs.mean(1)[0], atol=1e-5, rtol=1e-4)


def test_a_relative_error_counts_by_its_share_of_each_frames_energy() -> None:
    torch.manual_seed(0)
    model = quantized(nn.Conv1d(6, 5, 1, bias=False))
    layer: Any = model[0]  # type: ignore[index]
    item, moments = LinearMap("0", layer), Moments()
    x = torch.randn(1, 50, 6) * torch.logspace(-3, 1, 50)[:, None]
    assert item.frame_weights(x) is None
    layer.relative_error = True
    weights: Any = item.frame_weights(x)
    energy = (x @ item.weight.transpose(1, 2)).square().sum(2)
    expected = 1 / (energy + QUIET * energy.mean())
    torch.testing.assert_close(weights, expected / expected.mean())
    moments.add(x, x, weights)
    errors = (x @ (item.quantized_weight - item.weight).transpose(1, 2)).square().sum(2)
    assert item.error(moments) == pytest.approx(float((weights * errors).mean()), rel=1e-4)
    assert torch.equal(item.frame_weights(torch.zeros(1, 4, 6)), torch.ones(1, 4))  # type: ignore[arg-type]
    assert not hasattr(layer.to_float(), "relative_error")


def test_a_layer_without_bias_is_left_alone() -> None:
    model = quantized(nn.Linear(6, 5, bias=False))
    layer: Any = model[0]  # type: ignore[index]
    moments = Moments()
    moments.add(torch.randn(1, 9, 6), torch.randn(1, 9, 6))
    assert not LinearMap("0", layer).correct_bias_(moments)
