"""Recipes: what they refuse, which rule wins, and the presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from qat import recipe as module
from qat.layer_recipe import LayerRecipe
from qat.recipe import Recipe
from qat.rule import Rule
from qat.system.errors import UserError

PRESETS = sorted((Path(__file__).resolve().parent.parent / "configs" / "qat").glob("*.yaml"))
GROUPS = {"cnn": ["net.cnn.*", "front"], "rnn": ["net.rnn"]}
NAMES = ["front", "net.cnn.0", "net.cnn.1", "net.rnn", "head"]


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits"])
@pytest.mark.parametrize("value", [1, 9, -1, "x", 4.0, True])
def test_bits_outside_2_to_8_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        Recipe(preset="mine", **{field: value})
    message = str(caught.value)
    assert f"qat.{field}" in message and repr(value) in message and "2 to 8" in message
    with pytest.raises(UserError, match=rf"rule 'head': {field}: .* must be 2 to 8"):
        Rule("head", **{field: value})


@pytest.mark.parametrize("value", [0, None, 2, 3, 4, 5, 6, 7, 8])
def test_bits_from_2_to_8_and_float_are_taken(value: int | None) -> None:
    chosen = Recipe(preset="mine", weight_bits=value).for_layer("head", {})
    assert isinstance(chosen, LayerRecipe)
    assert chosen.weight_bits == (value or None) and chosen.activation_bits == 8


@pytest.mark.parametrize(
    "field,value,allowed",
    [
        ("rounding", "up", "nearest, stochastic"),
        ("weight_observer", "min", "max, mse, percentile, entropy"),
        ("activation_observer", None, "max, mse, percentile, entropy"),
        ("weight_granularity", "row", "channel, tensor"),
        ("percentile", 50, "above 50, up to 100"),
        ("percentile", 100.1, "above 50, up to 100"),
        ("percentile", float("nan"), "above 50, up to 100"),
        ("quant_noise", 1.5, "from 0 to 1"),
        ("quant_noise", -0.1, "from 0 to 1"),
        ("reduce_range", "maybe", "auto, true or false"),
        ("learn_scale", "yes", "true or false"),
        ("fold_batch_norm", 1, "true, false or after_calibration"),
        ("equalize", "off", "none, cross_layer, smooth"),
        ("target", "tflite", "onnxruntime, openvino, tensorrt"),
        ("smooth_alpha", 1.01, "from 0 to 1"),
        ("smooth_alpha", None, "from 0 to 1"),
        ("calibration_utterances", 0, "from 1"),
        ("seed", -1, "from 0"),
        ("rules", "cnn", "a list of rules"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_name(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(UserError) as caught:
        Recipe(preset="mine", **{field: value})
    message = str(caught.value)
    assert f"qat.{field}" in message and repr(value) in message and allowed in message


def test_unknown_fields_and_rules_without_match_are_refused() -> None:
    with pytest.raises(UserError, match="qat: field 'bits' must be one of weight_bits, activation_bits"):
        Recipe.from_dict({"bits": 4})
    with pytest.raises(UserError, match="qat.rules: field 'bits' must be one of match"):
        Recipe(preset="mine", rules=[{"match": "cnn", "bits": 4}])  # type: ignore[list-item]
    with pytest.raises(UserError, match="must have the field match"):
        Recipe(preset="mine", rules=[{"weight_bits": 4}])  # type: ignore[list-item]
    with pytest.raises(UserError, match="match '' must be a group or a glob"):
        Rule("")


def weight_bits(recipe: Recipe) -> dict[str, int | str | None]:
    chosen = {name: recipe.for_layer(name, GROUPS) for name in NAMES}
    return {name: item if isinstance(item, str) else item.weight_bits for name, item in chosen.items()}


def test_the_first_rule_that_matches_wins() -> None:
    rules = [Rule("net.cnn.1", weight_bits=2), Rule("cnn", weight_bits=4), Rule("net.*", weight_bits=6)]
    expected = {"front": 4, "net.cnn.0": 4, "net.cnn.1": 2, "net.rnn": 6, "head": 8}
    assert weight_bits(Recipe(preset="mine", rules=rules)) == expected
    last_first = Recipe(preset="mine", rules=rules[::-1])
    assert weight_bits(last_first) == {"front": 4, "net.cnn.0": 6, "net.cnn.1": 6, "net.rnn": 6, "head": 8}


def test_a_rule_names_a_group_or_a_glob() -> None:
    assert [name for name in NAMES if Rule("cnn").matches(name, GROUPS)] == [
        "front",
        "net.cnn.0",
        "net.cnn.1",
    ]
    assert [name for name in NAMES if Rule("*n*.*n*").matches(name, GROUPS)] == NAMES[1:4]
    assert [name for name in NAMES if Rule("head").matches(name, GROUPS)] == ["head"]
    assert not Rule("HEAD").matches("head", GROUPS)


def test_a_field_left_out_of_a_rule_inherits_the_recipe() -> None:
    recipe = Recipe(
        preset="mine",
        weight_bits=5,
        rounding="stochastic",
        activation_signed=True,
        percentile=99.0,
        rules=[Rule("head", activation_bits=3, weight_observer="entropy", activation_signed=False)],
    )
    head, other = recipe.for_layer("head", GROUPS), recipe.for_layer("front", GROUPS)
    assert isinstance(head, LayerRecipe) and isinstance(other, LayerRecipe)
    assert (head.weight_bits, head.activation_bits, head.rounding, head.percentile) == (
        5,
        3,
        "stochastic",
        99.0,
    )
    assert head.weight_observer == "entropy" and head.activation_signed is False
    assert other.weight_observer == "mse" and other.activation_signed is True and other.activation_bits == 8


def test_a_layer_stays_float_with_a_reason() -> None:
    rules = [Rule("head", quantize=False), Rule("rnn", weight_bits=0, activation_bits=0)]
    chosen = weight_bits(Recipe(preset="mine", rules=rules))
    assert chosen["head"] == "excluded by the recipe"
    assert chosen["net.rnn"] == "the recipe gives it neither weight nor activation bits"
    assert weight_bits(Recipe()) == dict.fromkeys(NAMES, "the recipe is off")


def test_a_rule_that_matches_nothing_is_refused() -> None:
    recipe = Recipe(preset="mine", rules=[Rule("cnn"), Rule("transformer")])
    with pytest.raises(
        UserError, match=r"'transformer' matches no layer; must be a group \(cnn, rnn\).*like front"
    ):
        recipe.check_rules(NAMES, GROUPS)
    Recipe(preset="mine", rules=[Rule("cnn"), Rule("h*")]).check_rules(NAMES, GROUPS)


def test_a_recipe_survives_its_dictionary_and_yaml() -> None:
    recipe = Recipe(
        preset="mine",
        weight_bits=None,
        quant_noise=0.5,
        reduce_range=True,
        rules=[Rule("cnn", weight_bits=4), Rule("head", quantize=False)],
    )
    values = recipe.to_dict()
    assert Recipe.from_dict(values) == recipe
    assert Recipe.from_dict(yaml.safe_load(yaml.safe_dump(values))) == recipe
    assert all(type(item) is dict for item in values["rules"])


def test_a_recipe_of_before_equalization_is_one_without_it() -> None:
    values = Recipe(preset="mine").to_dict()
    old = {key: value for key, value in values.items() if key not in ("equalize", "smooth_alpha")}
    assert Recipe.from_dict(old) == Recipe(preset="mine", equalize="none")


@pytest.mark.parametrize("vnni", [True, False])
def test_reduce_range_auto_follows_the_cpu(vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpu_has_vnni", lambda: vnni)
    recipe = Recipe(preset="mine")
    assert recipe.resolved().reduce_range is (not vnni)
    assert recipe.resolved().resolved() == recipe.resolved()
    chosen = recipe.for_layer("head", {})
    assert isinstance(chosen, LayerRecipe)
    assert chosen.weight_quant_max == (127 if vnni else 63)
    for value, settled in ((True, True), (False, False), ("true", True), ("false", False)):
        assert Recipe(preset="mine", reduce_range=value).resolved().reduce_range is settled  # type: ignore[arg-type]


def test_presets_are_there() -> None:
    assert {"off", "deterministic", "stochastic", "quant_noise", "ptq_mse"} <= {path.stem for path in PRESETS}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_builds_a_recipe_of_its_name(path: Path) -> None:
    recipe = Recipe.from_dict(yaml.safe_load(path.read_text()))
    assert recipe.preset == path.stem
    assert recipe.active is (path.stem != "off")
    assert recipe.fine_tune is not path.stem.startswith(("ptq", "adaround", "dynamic"))
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_rule_may_have_its_own_percentile() -> None:
    recipe = Recipe(preset="mine", percentile=99.9, rules=[Rule("cnn", percentile=99.5), Rule("head")])
    found = [recipe.for_layer(name, GROUPS) for name in NAMES]
    assert [layer.percentile for layer in found if isinstance(layer, LayerRecipe)] == [
        99.5,
        99.5,
        99.5,
        99.9,
        99.9,
    ]
    with pytest.raises(UserError, match="rule 'cnn': percentile: 50.0 must be a number above 50"):
        Rule("cnn", percentile=50.0)


def test_a_target_refuses_what_it_has_no_arithmetic_for() -> None:
    for fields, said in (
        ({"target": "openvino", "four_bit_linear": "matmul_nbits"}, "must be auto or integer"),
        (
            {"target": "tensorrt", "activation_granularity": "frame"},
            "qat.activation_granularity: 'frame', must be tensor",
        ),
        ({"target": "tensorrt", "activation_bits": 4}, "qat.activation_bits: 4, must be 0 or 8"),
        (
            {"target": "tensorrt", "rules": [Rule("cnn", activation_granularity="dynamic")]},
            "rule 'cnn': activation_granularity: 'dynamic'",
        ),
    ):
        with pytest.raises(UserError, match=said):
            Recipe(preset="x", **fields)
    Recipe(preset="x", target="openvino", activation_granularity="frame", activation_bits=4)


def test_tensorrt_has_signed_levels_around_zero() -> None:
    layer = Recipe(preset="x", target="tensorrt").for_layer("a", {})
    assert isinstance(layer, LayerRecipe) and layer.activation_signed
    assert (layer.activation_quant_min, layer.activation_quant_max) == (-128, 127)
