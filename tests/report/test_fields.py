"""Checks derived from a dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from qat.report.fields import PAIR, field_problems, from_builtins, kinds_of, limited, null_paths


@dataclass(frozen=True)
class Inner:
    share: float | None = limited(low=0, high=1)


@dataclass(frozen=True)
class Outer:
    name: str
    count: int | None = limited(low=0)
    bits: int | str | None = limited(low=2, high=8, pattern="[2-8]/[2-8]", silent=True)
    interval: PAIR | None = limited()
    inner: Inner | None = limited()
    kind: str | None = limited(choices=("a", "b"))


GOOD: dict[str, Any] = {
    "name": "x", "count": 1, "bits": 4, "interval": [0, 1.5], "inner": {"share": 0.5}, "kind": "a",
}  # fmt: skip


def test_types_are_those_of_the_annotations() -> None:
    kinds = kinds_of(Outer)
    assert list(kinds) == list(GOOD)
    assert kinds["bits"].kinds == (int, str) and kinds["interval"].kinds == (list,)
    assert kinds["inner"].record is Inner and kinds["interval"].is_pair
    assert not kinds["name"].nullable and kinds["count"].nullable


def test_good_values_become_the_record() -> None:
    assert list(field_problems(Outer, GOOD)) == []
    assert from_builtins(Outer, GOOD) == Outer("x", 1, 4, (0, 1.5), Inner(0.5), "a")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": None}, "name may not be null"),
        ({"name": ""}, "name is '', must not be empty"),
        ({"count": 1.5}, "count is 1.5, must be int"),
        ({"count": True}, "count is True, must be int"),
        ({"count": -1}, "count is -1, must be a finite number in [0, inf]"),
        ({"bits": "9"}, "bits is '9', must match [2-8]/[2-8]"),
        ({"bits": []}, "bits is [], must be int or str"),
        ({"interval": [2, 1]}, "interval is [2, 1], must be [low, high]"),
        ({"inner": {"share": 2}}, "inner.share is 2, must be a finite number in [0, 1]"),
        ({"inner": {}}, "inner.share is missing"),
        ({"inner": {"share": 0, "x": 0}}, "unknown field 'inner.x'"),
        ({"kind": "c"}, "kind is 'c', must be one of a, b"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_each_fault_is_one_line(changes: dict[str, Any], problem: str) -> None:
    assert list(field_problems(Outer, GOOD | changes)) == [problem]


def test_a_missing_field_is_named() -> None:
    assert list(field_problems(Outer, {"name": "x"}))[0] == "field 'count' is missing"


def test_nulls_need_a_note_unless_they_have_a_meaning() -> None:
    nulls = dict.fromkeys(GOOD) | {"name": "x", "inner": {"share": None}}
    assert list(null_paths(Outer, nulls)) == ["count", "interval", "inner.share", "kind"]
