"""The swap: shared Parameters, what is left out and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qat.layers.conv import QuantConv1d
from qat.layers.coverage import coverage
from qat.layers.observer import Observer
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_
from qat.layers.swap import swap_
from qat.recipe import Recipe
from qat.rule import Rule
from qat.system.errors import UserError
from tests.layers.hosts import host, kinds, recipe


@kinds
def test_swapping_shares_the_parameters_of_the_layer(layer_kind: str) -> None:
    model, _ = host(layer_kind)
    before = dict(model.named_parameters())
    swap_(model, recipe())
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


class Zoo(nn.Module):
    """Layers of many kinds, of which not all can be quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.up = nn.ConvTranspose1d(4, 4, 3)
        self.plain = nn.RNN(4, 4)
        self.projected = nn.LSTM(4, 4, proj_size=2)
        self.head = nn.Linear(4, 4)
        self.shared = self.conv
        self.norm = nn.LayerNorm(4)


def test_the_report_names_the_layers_left_out_with_reasons() -> None:
    model = Zoo()
    report = swap_(model, recipe(rules=[Rule("head", quantize=False)]))
    assert report.swapped == ["conv"]
    assert dict(report.skipped) == {
        "up": "no quantized ConvTranspose1d",
        "plain": "no quantized RNN",
        "projected": "no quantized LSTM with a projection",
        "head": "excluded by the recipe",
    }
    assert "`head`: excluded by the recipe" in str(report)
    assert model.shared is model.conv and isinstance(model.conv, QuantConv1d)
    assert type(model.head) is nn.Linear
    again = swap_(model, recipe())
    assert again.swapped == ["head"] and ("conv", "is quantized already") in again.skipped
    assert coverage(model)["skipped"] == ["up", "plain", "projected"]


def test_groups_reach_swap_and_a_rule_for_nothing_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(UserError, match="'cnn' matches no layer"):
        swap_(model, recipe(rules=[Rule("cnn")]))
    assert type(model[0]) is nn.Linear
    swap_(model, recipe(rules=[Rule("last", weight_bits=4)]), {"last": ["1"]})
    assert [layer.layer_recipe.weight_bits for layer in model] == [8, 4]


def test_the_off_recipe_swaps_nothing() -> None:
    model, _ = host("linear")
    assert swap_(model, Recipe()).skipped == [("layer", "the recipe is off")]
    assert type(model.layer) is nn.Linear


class Decoder(nn.Module):
    """Layers of which a model keeps some float."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 4)
        self.location = nn.Conv1d(1, 2, 3)
        self.energy = nn.Linear(4, 1)


KEPT = {"location": "its input is below one level", "ener*": "a scalar"}


@pytest.mark.parametrize(
    ("rules", "swapped"),
    [
        ([], ["cell"]),
        ([Rule("*", weight_bits=4)], ["cell"]),
        ([Rule("location", weight_bits=4)], ["cell", "location"]),
        ([Rule("attention", weight_bits=4)], ["cell", "location", "energy"]),
        ([Rule("*", weight_bits=4), Rule("location")], ["cell"]),
    ],
)
def test_layers_that_a_model_keeps_float_stay_so_unless_a_rule_speaks_of_none_but_them(
    rules: list[Rule], swapped: list[str]
) -> None:
    groups = {"attention": ["location", "energy"]}
    report = swap_(Decoder(), recipe(rules=rules), groups, kept_float=KEPT)
    assert report.swapped == swapped
    reasons = {"location": "its input is below one level", "energy": "a scalar"}
    assert dict(report.skipped) == {name: why for name, why in reasons.items() if name not in swapped}


def test_a_recipes_own_reason_comes_before_a_models() -> None:
    report = swap_(Decoder(), recipe(rules=[Rule("location", quantize=False)]), kept_float=KEPT)
    assert dict(report.skipped)["location"] == "excluded by the recipe"


DYNAMIC = {"linear": "frame", "conv1d": "frame", "lstm": "tensor", "grouped": None, "conv2d": None}


@kinds
@torch.no_grad()
def test_dynamic_gives_each_layer_what_it_can_have_without_calibration(layer_kind: str) -> None:
    model, x = host(layer_kind)
    plain = model(x)
    swap_(model, recipe(activation_granularity="dynamic"))
    expected = DYNAMIC.get(layer_kind, "frame")
    layer: Any = model.layer
    chosen = layer.layer_recipe
    assert (chosen.activation_granularity if chosen.activation_bits else None) == expected
    assert not any(isinstance(module, Observer) for module in model.modules())
    calibrate_weights_(model)
    finish_calibration_(model)  # nothing was seen, and nothing is missed
    set_enabled_(model, True)
    out = model(x)
    assert not torch.equal(out, plain)
    torch.testing.assert_close(out, plain, rtol=0, atol=0.05)


@kinds
@torch.no_grad()
def test_a_dynamic_layer_is_the_layer_of_the_recipe_that_it_is_settled_to(layer_kind: str) -> None:
    expected = DYNAMIC.get(layer_kind, "frame")
    by_hand: dict[str, Any] = {"activation_granularity": expected} if expected else {"activation_bits": None}
    outs = []
    for fields in ({"activation_granularity": "dynamic"}, by_hand):
        model, x = host(layer_kind)
        swap_(model, recipe(**fields))
        calibrate_weights_(model)
        finish_calibration_(model)
        set_enabled_(model, True)
        outs.append(model(x))
    assert torch.equal(*outs)


def test_dynamic_leaves_the_waveform_in_float() -> None:
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 3))
    swap_(model, recipe(activation_granularity="dynamic"))
    first, second = (layer.layer_recipe for layer in model)
    assert (first.weight_bits, first.activation_bits) == (8, None) and second.by_frame


def test_dynamic_without_weight_bits_leaves_a_layer_float_with_the_reason() -> None:
    fields: dict[str, Any] = {"activation_granularity": "dynamic", "weight_bits": None}
    report = swap_(nn.Sequential(nn.Conv2d(2, 4, 3)), recipe(**fields))
    assert report.skipped == [
        ("0", "the recipe gives it no weight bits, and it has no range without calibration")
    ]
