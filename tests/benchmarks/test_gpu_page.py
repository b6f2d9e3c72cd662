"""Ratios are to the float rows of the same model and batch; the tables say what was met, missed, failed and not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu_page import ABSENT, LEARNED, block, related, tables
from benchmarks.gpu_rows import FAILED, MEASURED, NOT_RUN, PASSED, Row, check_row, step_row
from benchmarks.publish import fill


def step(variant: str, step_ms: float, batch: str = "16 x 12 s", **values: float | None) -> Row:
    rest = {"evaluation_ms": 10.0, "peak_memory_gb": 5.0, "launches": 1234, "kernel_ms": 7.0, **values}
    return step_row("base", batch, variant, MEASURED, step_ms=step_ms, **rest)


ROWS = [
    step("compiled float", 80.0, evaluation_ms=None),
    step("compiled stochastic", 88.0, evaluation_ms=None),
    step("float", 99.0),
    step("deterministic", 105.0, evaluation_ms=14.0, peak_memory_gb=6.0),
    step("stochastic", 120.0),
    step(LEARNED, 125.0),
    step("float", 1.0, batch="1 x 1 s"),
    step_row("base", "16 x 12 s", "other", FAILED, note="CUDA out of memory"),
    step("float again", 101.0),
    check_row("presets", "crdnn off", PASSED),
    check_row("presets", "crdnn low_bit", FAILED, note="ValueError: no"),
    check_row("two GPUs", "crdnn two GPUs", NOT_RUN, note="one GPU"),
    check_row("ranges", "crdnn ranges, max", PASSED, largest_relative_difference=2.5e-7),
    check_row("ranges", "crdnn ranges, mse", PASSED, largest_relative_difference=1e-8),
]


def test_ratios_are_to_the_mean_of_float_before_and_after() -> None:
    found = {row["variant"]: row for row in related(ROWS)[:6]}
    assert found["deterministic"]["ratio"] == pytest.approx(1.05)
    assert found["deterministic"]["evaluation_ratio"] == pytest.approx(1.4)
    assert found["deterministic"]["peak_memory_ratio"] == pytest.approx(1.2)
    assert found["float"]["float_spread"] == pytest.approx(2 / 99) and "ratio" not in found["float"]
    assert found["compiled stochastic"]["ratio"] == pytest.approx(0.88)
    assert found["compiled stochastic"]["ratio_to_compiled_float"] == pytest.approx(1.1)
    assert "evaluation_ratio" not in found["compiled stochastic"]


def test_aims_are_those_of_the_kind_of_training() -> None:
    found = {row["variant"]: row for row in related(ROWS)[:6]}
    assert found["deterministic"]["ratio_met"] and not found["deterministic"]["peak_memory_ratio_met"]
    assert (found["stochastic"]["ratio_aim"], found["stochastic"]["ratio_met"]) == (1.15, False)
    assert (found[LEARNED]["ratio_aim"], found[LEARNED]["ratio_met"]) == (1.25, True)
    assert "ratio_aim" not in found["compiled stochastic"]


def test_without_a_float_row_there_is_no_ratio() -> None:
    assert related(ROWS[3:4])[0] == ROWS[3]


def test_the_tables_say_what_was_met_missed_failed_and_not_run() -> None:
    found = tables(related(ROWS))
    assert "| 120.0 | 1.20 (<= 1.15: missed) |" in found["steps"]
    assert "| 125.0 | 1.25 (<= 1.25: met) |" in found["steps"] and "spread 2 %" in found["steps"]
    assert "failed: CUDA out of memory" in found["steps"] and "1,234" in found["steps"]
    assert "| presets | 1 of 2 | crdnn low_bit |  |  |" in found["checks"]
    assert "| two GPUs | 0 of 1 |  | crdnn two GPUs (one GPU) |  |" in found["checks"]
    assert "| ranges | 2 of 2 |  |  | 2.5e-07 |" in found["checks"]


def test_the_page_is_filled_from_the_file_and_says_where_there_is_none(tmp_path: Path) -> None:
    text = "<!-- gpu: gpu.json checks -->\nold\n<!-- end -->\n"
    assert fill(text, tmp_path) == f"<!-- gpu: gpu.json checks -->\n{ABSENT}<!-- end -->\n"
    facts = {"command": "python -m benchmarks.gpu", "device": "a GPU", "driver": "1", "duration_s": 12.0}
    facts |= {"git_commit": "abc", "started_at": "2026-01-02T03:04:05", "versions": {"torch": "2"}}
    (tmp_path / "gpu.json").write_text(json.dumps({**facts, "results": related(ROWS)}))
    filled = fill(text, tmp_path)
    assert "| presets | 1 of 2 |" in filled and "on a GPU (driver 1), commit abc" in filled
    assert filled == fill(filled, tmp_path) and "of the rows" not in filled
    older = [{**row, "git_commit": "0123456789abcdef"} if row["part"] == "check" else row for row in ROWS]
    (tmp_path / "gpu.json").write_text(json.dumps({**facts, "results": older}))
    count = sum(row["part"] == "check" for row in ROWS)
    assert f"; {count} of the rows at commit 0123456789ab" in fill(text, tmp_path)
    assert "step ms" in block(tmp_path / "gpu.json", "steps")
