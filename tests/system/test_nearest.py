"""A mistyped name finds the one that was meant."""

from __future__ import annotations

import pytest

from qat.system.nearest import did_you_mean, nearest_option

KNOWN = ["run", "trainer", "qat.weight_bits", "qat.activation_bits", "evaluation.seed", "qat.seed"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("qat.weight_bit", "qat.weight_bits"),
        ("qat.wieght_bits", "qat.weight_bits"),
        ("qta.activation_bits", "qat.activation_bits"),
        ("seed", "evaluation.seed"),
        ("rnu", "run"),
        ("qat.frobnicate", None),
        ("frob.nicate", None),
    ],
)
def test_an_option_is_sought_in_its_group_then_in_a_group_alike_then_anywhere(
    name: str, near: str | None
) -> None:
    assert nearest_option(name, KNOWN) == near


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert did_you_mean("completely", ["else"]) == "" and did_you_mean("x", []) == ""
