"""Noise of quantization per layer."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from qat.evaluation.sqnr import layer_names, layer_sqnr


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.rnn = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 5)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.conv(x).transpose(1, 2))
        return self.head(self.rnn(hidden)[0])


def run(model: nn.Module, batch: Tensor) -> object:
    return model(batch)


@pytest.fixture
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 4, length, generator=generator) for length in (9, 20, 5)]


def test_layers_are_the_weighted_ones_of_both_models() -> None:
    other = Small()
    other.head = nn.Identity()  # type: ignore[assignment]
    assert layer_names(Small(), Small()) == ["conv", "rnn", "head", "unused"]
    assert layer_names(Small(), other) == ["conv", "rnn", "unused"]


def test_equal_models_have_no_noise(batches: list[Tensor]) -> None:
    assert layer_sqnr(Small(), Small(), batches, run) == dict.fromkeys(("conv", "rnn", "head"), math.inf)


def test_ratio_is_that_of_all_batches_at_once(batches: list[Tensor]) -> None:
    one, two = Small(), Small()
    with torch.no_grad():
        two.conv.weight.copy_((two.conv.weight * 16).round() / 16)
    found = layer_sqnr(one, two, batches, run)
    with torch.no_grad():
        clean = torch.cat([one.conv(batch).flatten() for batch in batches]).double()
        noisy = torch.cat([two.conv(batch).flatten() for batch in batches]).double()
    expected = 10 * math.log10(clean.square().mean() / (clean - noisy).square().mean())
    assert found["conv"] == pytest.approx(expected, rel=1e-12)  # the order of a float64 sum
    assert list(found) == ["conv", "rnn", "head"] and all(math.isfinite(value) for value in found.values())


def test_halving_the_noise_gives_six_decibels() -> None:
    batch = [torch.randn(1, 100, 8, generator=torch.Generator().manual_seed(1))]
    ratios = []
    for error in (0.02, 0.01):
        one = nn.Sequential(nn.Linear(8, 8, bias=False))
        two = copy.deepcopy(one)
        with torch.no_grad():
            two[0].weight.mul_(1 + error)
        ratios.append(layer_sqnr(one, two, batch, run)["0"])
    assert ratios[0] == pytest.approx(-20 * math.log10(0.02), abs=1e-3)  # float32 weights
    assert ratios[1] - ratios[0] == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_models_come_back_as_they_were(batches: list[Tensor]) -> None:
    one, two = Small().train(), Small().eval()
    layer_sqnr(one, two, batches, run)
    assert one.training and not two.training
    assert not any(layer._forward_hooks for model in (one, two) for layer in model.modules())


def test_packed_sequences_count_their_frames_only() -> None:
    one, two = nn.Sequential(nn.LSTM(3, 4)), nn.Sequential(nn.LSTM(3, 4))
    packed = pack_sequence([torch.randn(5, 3), torch.randn(2, 3)])
    assert math.isfinite(layer_sqnr(one, two, [packed], lambda model, x: model(x))["0"])


def test_layers_called_differently_are_an_error(batches: list[Tensor]) -> None:
    class Twice(Small):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            return super().forward(x)

    with pytest.raises(ValueError, match="layer conv: outputs"):
        layer_sqnr(Small(), Twice(), batches, run)
