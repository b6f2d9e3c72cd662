"""Two runs with a known difference, side by side."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qat.evaluation.significance import paired_difference
from qat.report.compare import compare, flat, read_run
from qat.system.errors import UserError
from tests.report.conftest import REFERENCES, Make


def test_the_difference_is_paired_to_the_first_run_and_sorted_by_error_rate(make: Make) -> None:
    runs = [read_run(make("one", [0, 1, 2])), read_run(make("two", [2, 5]))]
    found = compare(runs)
    first, second = found.lines["test_seen"]
    assert (first.run, second.run) == ("two", "one")
    assert second.difference is None and "first run" in second.note
    assert first.difference == paired_difference(
        [0, 0, 1, 0, 0, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [5] * 8, 0
    )
    assert first.difference is not None and first.difference.mean == pytest.approx(-2.5)
    changed = {(item.id, item.errors_before, item.errors_after) for item in found.changes}
    assert changed == {("u0", 1, 0), ("u1", 1, 0), ("u5", 0, 1)}
    assert found.changes[0].before == "burn light number 0 on" and found.changes[0].after == REFERENCES[0]


def test_only_settings_that_differ_are_listed(make: Make) -> None:
    runs = [
        read_run(make("one", [0], qat={"weight_bits": 8, "seed": 1}, run="one")),
        read_run(make("two", [1], qat={"weight_bits": 4, "seed": 1}, run="two", data={"augment": True})),
    ]
    found = compare(runs)
    assert found.settings == {
        "data.augment": {"two": True},
        "qat.weight_bits": {"one": 8, "two": 4},
    }


def test_runs_with_other_utterances_have_no_difference_and_the_reason_stands_there(make: Make) -> None:
    one, two = make("one", [0]), make("two", [1])
    stored = json.loads((two / "utterances.json").read_text())
    stored["splits"]["test_seen"]["references"][0] = "another sentence"
    (two / "utterances.json").write_text(json.dumps(stored))
    found = compare([read_run(one), read_run(two)])
    line = next(line for line in found.lines["test_seen"] if line.run == "two")
    assert line.difference is None and line.note == "other utterances than the first run's"


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("wer", ["b", "c", "a"]),
        ("size", ["c", "a", "b"]),
        ("speedup", ["a", "b", "c"]),
        ("latency", ["b", "a", "c"]),
    ],
)
def test_every_order_puts_the_best_first(make: Make, sort: str, order: list[str]) -> None:
    def values(size: float, speedup: float, p50: float) -> dict[str, Any]:
        return {"size_mb": size, "speedup": speedup, "latency_ms": {"p50": p50, "p95": 99.0}}

    runs = [
        read_run(make("a", [0, 1, 2], row=values(2.0, 3.0, 12.0))),
        read_run(make("b", [0], row=values(3.0, 2.0, 11.0))),
        read_run(make("c", [0, 1], row=values(1.0, 1.0, 13.0))),
    ]
    assert [line.run for line in compare(runs, sort).lines["test_seen"]] == order


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one"], r"compare: 1 run \(one\), must be at least two"),
        (["one", "one"], "two runs are named one, must be of different names"),
    ],
)
def test_what_cannot_be_compared_is_said(make: Make, names: list[str], message: str) -> None:
    run = read_run(make("one", [0]))
    with pytest.raises(UserError, match=message):
        compare([run for _ in names])


def test_flat_keeps_empty_mappings() -> None:
    assert flat({"a": {}, "b": {"c": None}}) == {"a": {}, "b.c": None}
