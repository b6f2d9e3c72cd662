"""`qat.four_bit_linear: auto` becomes a kernel once, and stays it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.cli import four_bit
from qat.cli.four_bit import CHOSEN, four_bit_linear
from qat.recipe import Recipe
from qat.runtime import four_bit as timed

OPEN = Recipe(preset="x", weight_bits=4)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the measurements, in which the kernel on 4 bits is the faster one."""
    calls: list[int] = []
    monkeypatch.setattr(
        timed, "kernel_times", lambda: calls.append(1) or {"matmul_nbits": 1.0, "integer": 2.0}
    )
    monkeypatch.setenv(CHOSEN, "")  # whatever is set there is undone
    return calls


def test_the_faster_one_is_taken_and_passed_on(measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert four_bit_linear(OPEN, "x", None) == "matmul_nbits"
    monkeypatch.setattr(four_bit, "launched_rank", lambda: 1)
    assert four_bit_linear(OPEN, "x", None) == "matmul_nbits"
    assert len(measured) == 1


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(preset="x", weight_bits=4, four_bit_linear="integer"),
        Recipe(preset="x"),
        Recipe(preset="off", weight_bits=4),
        Recipe(preset="x", weight_bits=4, activation_bits=4),
        Recipe(preset="x", weight_bits=4, activation_granularity="frame"),
    ],
)
def test_nothing_is_timed_where_there_is_nothing_to_choose(recipe: Recipe, measured: list[int]) -> None:
    assert four_bit_linear(recipe, None, None) == recipe.four_bit_linear
    assert not measured


def test_processes_launched_from_outside_compute_as_at_eight_bits(
    measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(four_bit, "started_outside", lambda: True)
    assert four_bit_linear(OPEN, None, None) == "integer" and not measured


def test_a_portable_file_has_one_kernel(measured: list[int]) -> None:
    assert four_bit_linear(OPEN, None, None, portable=True) == "integer" and not measured


@pytest.mark.parametrize("named", [True, False])
def test_a_resumed_run_keeps_its_kernel(named: bool, tmp_path: Path, measured: list[int]) -> None:
    (tmp_path / "config.yaml").write_text("qat: {weight_bits: 4, four_bit_linear: integer}\n")
    run, resumed = (f"{tmp_path}/", "last") if named else (None, str(tmp_path / "last.ckpt"))
    assert four_bit_linear(OPEN, run, resumed) == "integer"
    (tmp_path / "config.yaml").unlink()
    assert four_bit_linear(OPEN, run, resumed) == "auto" and not measured
