"""One rule of a recipe, and the checks that rules and recipes share."""

from __future__ import annotations

import pytest

from qat.recipe import Recipe
from qat.rule import Rule, known_fields, rule_of
from qat.system.errors import UserError


def test_a_rule_is_made_of_its_fields_or_is_one_already() -> None:
    rule = Rule("head", weight_bits=4, equalize="smooth")
    assert rule_of({"match": "head", "weight_bits": 4, "equalize": "smooth"}) == rule
    assert rule_of(rule) is rule


def test_a_rule_may_leave_a_field_to_the_recipe_but_not_give_it_another_value() -> None:
    with pytest.raises(
        UserError, match="rule 'head': equalize: 'yes' must be one of none, cross_layer, smooth"
    ):
        Rule("head", equalize="yes")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="qat: 4 must be a mapping of fields"):
        known_fields(Recipe, 4, "qat")  # type: ignore[arg-type]


def test_the_first_rule_that_matches_says_how_channels_are_evened_out() -> None:
    rules = [Rule("a.*", equalize="none"), Rule("head"), Rule("b.*", equalize="cross_layer")]
    recipe = Recipe(preset="x", equalize="smooth", rules=rules)
    found = [recipe.equalize_of(name, {}) for name in ("a.0", "head", "b.0", "other")]
    assert found == ["none", "smooth", "cross_layer", "smooth"]
    assert recipe.equalizes and Recipe(preset="x", rules=rules).equalizes
    assert not Recipe(preset="x", rules=rules[:2]).equalizes
