"""Plain text in YAML, and arithmetic without `eval`."""

from __future__ import annotations

import math
from io import StringIO

import pytest
from hyperpyyaml import load_hyperpyyaml
from hypothesis import given
from hypothesis import strategies as st

from qat.models.yaml_values import arithmetic, plain

TEXTS = [
    "",
    "~",
    "null",
    "true",
    "False",
    "no",
    "yes",
    "off",
    "12",
    "-3",
    "0.15",
    ".5",
    "1e-3",
    "2.",
    "1.e-8",
]


@pytest.mark.parametrize("text", [*TEXTS, "(1, 2)", "(16,)", "(True, False)", "(a, b)", "word", "a/b", "+7"])
def test_plain_text_stands_for_what_speechbrains_reader_takes_it_for(text: str) -> None:
    theirs = load_hyperpyyaml(StringIO(f"a: {text}\n"))["a"]
    ours = plain(text)
    assert ours == theirs and type(ours) is type(theirs)


def test_a_tuple_holds_scalars_alone() -> None:
    with pytest.raises(ValueError, match="tuple of numbers"):
        plain("((1, 2), 3)")
    with pytest.raises(ValueError, match="tuple of numbers"):
        plain("(!new:os.system, 1)")


@given(
    st.integers(0, 99),
    st.integers(1, 99),
    st.integers(1, 9),
    st.sampled_from(["+", "-", "*", "/", "//", "%"]),
    st.sampled_from(["+", "-", "*"]),
)
def test_arithmetic_is_pythons(a: int, b: int, c: int, first: str, second: str) -> None:
    text = f"{a} {second} -{b} {first} {c}"
    assert arithmetic(text) == eval(text)  # of numbers and operators that this test wrote


@pytest.mark.parametrize(
    "text", ["results/7", "__import__('os')", "a * 2", "(1, 2)", "f(1)", "True", "'a' * 9", ""]
)
def test_what_is_not_arithmetic_of_numbers_is_left_alone(text: str) -> None:
    assert arithmetic(text) is None


@pytest.mark.parametrize("text", ["1 / 0", "9 ** 9", "1e12 * 10", "1e400", "7 % 0", "2 << 9"])
def test_arithmetic_without_a_small_value_is_an_error(text: str) -> None:
    with pytest.raises(ArithmeticError):
        arithmetic(text)


def test_no_sum_is_not_a_number() -> None:
    value = arithmetic("1.5 * 4")
    assert value is not None and math.isfinite(value)
