"""Channels scaled between two layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qat.layers.equalize import ScalePair, input_range, output_range, scale_pair_, unfit_reason
from qat.layers.swap import swap_
from qat.recipe import Recipe

CHANNELS = 6


class Transposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


def chain(*layers: nn.Module) -> nn.Sequential:
    """Layers whose weights and biases are all random, in eval mode."""
    model = nn.Sequential(*layers).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


CHAINS: dict[str, tuple[Any, int]] = {  # layers, place of the consumer
    "linear": (lambda: (nn.Linear(4, CHANNELS), nn.LeakyReLU(), nn.Linear(CHANNELS, 3)), 2),
    "norm": (lambda: (nn.Linear(4, CHANNELS), nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 3)), 2),
    "batch_norm": (lambda: (Transposed(), nn.BatchNorm1d(4), nn.Conv1d(4, 5, 3, padding=1)), 2),
    "conv": (lambda: (Transposed(), nn.Conv1d(4, CHANNELS, 3), nn.LeakyReLU(), nn.Conv1d(CHANNELS, 3, 3)), 3),
    "lstm": (
        lambda: (nn.LayerNorm(4), nn.Dropout(), nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)),
        2,
    ),
    "gru": (lambda: (nn.LayerNorm(4, bias=False), nn.GRU(4, 3, batch_first=True)), 1),
}


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("name", CHAINS)
def test_powers_of_two_change_no_bit_of_the_output(name: str, quantized: bool) -> None:
    torch.manual_seed(0)
    layers, place = CHAINS[name]
    model = chain(*layers())
    if quantized:  # the quantizers are off
        swap_(model, Recipe(preset="x"))
    producer = next(key for key in map(str, range(place)) if hasattr(model[int(key)], "bias"))
    pair = ScalePair("1" if name == "norm" else producer, (str(place),))
    x = torch.randn(2, 9, 4)
    before = model(x)
    scale = torch.exp2(torch.randint(-6, 7, (len(input_range(model[place])),)).float())
    weights = [parameter.clone() for parameter in model[place].parameters()]
    assert unfit_reason(model, pair) == ""
    scale_pair_(model, pair, scale)
    after = model(x)
    if name in ("lstm", "gru"):
        before, after = before[0], after[0]
    assert torch.equal(before, after)
    assert any(not torch.equal(one, two) for one, two in zip(weights, model[place].parameters(), strict=True))


def test_values_that_become_one_channel_share_its_scale_and_those_not_read_have_none() -> None:
    model = chain(nn.LayerNorm(5), nn.Linear(2, 1))
    before = model.get_parameter("0.weight").clone()
    places = torch.tensor([0, 1, 0, 1, -1])
    scale_pair_(model, ScalePair("0", ("1",), places), torch.tensor([2.0, 8.0]))
    torch.testing.assert_close(
        before / model.get_parameter("0.weight"), torch.tensor([2.0, 8.0, 2.0, 8.0, 1.0]), atol=0, rtol=0
    )


def test_ranges_are_those_of_rows_and_columns_and_of_three_deviations_of_a_norm() -> None:
    model = chain(nn.Linear(2, 2), nn.LayerNorm(3), nn.LSTM(2, 1, bidirectional=True))
    model[0].weight.data = torch.tensor([[1.0, -3.0], [0.5, 2.0]])
    assert output_range(model[0]).tolist() == [3.0, 2.0] and input_range(model[0]).tolist() == [1.0, 3.0]
    model[1].weight.data, model[1].bias.data = torch.tensor([1.0, -2.0, 9.0]), torch.tensor([0.0, -1.0, 0.0])
    assert output_range(model[1]).tolist() == [3.0, 7.0, 27.0]
    assert output_range(model[1], torch.tensor([0, 0, -1]), 2).tolist() == [7.0, 0.0]
    both = torch.cat([model.get_parameter(f"2.weight_ih_l0{end}") for end in ("", "_reverse")]).detach()
    assert torch.equal(input_range(model[2]), both.abs().amax(0))


def test_a_pair_that_cannot_be_scaled_says_why() -> None:
    model = nn.Sequential(
        nn.LSTM(2, 2),
        nn.LayerNorm(2, elementwise_affine=False),
        nn.Linear(2, 2),
        nn.Conv1d(2, 2, 1, groups=2),
    )
    for pair, reason in (
        (ScalePair("0", ("2",)), "a LSTM has no weights to scale"),
        (ScalePair("1", ("2",)), "its norm has no weights"),
        (ScalePair("2", ("3",)), "a convolution of groups reads it"),
        (ScalePair("2", ("2",), reason="told before"), "told before"),
    ):
        assert unfit_reason(model, pair) == reason
