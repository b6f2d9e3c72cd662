"""Pictures: drawn where there is data, and none where there is not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from qat.report.figures import (
    draw_all,
    draw_bits,
    draw_latency,
    draw_training,
    draw_wer,
    lines_by_activation,
    read_metrics,
    timed_files,
)
from qat.report.points import Point
from qat.report.row import Row

METRICS = """epoch,step,train/loss,train/loss_step,val/loss,val/wer
,,,,,
0,19,2.5,,,
0,39,,1.5,,
0,40,,,1.7,60.0
1,80,nan,,1.2,41.5
"""


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    return path


def test_all_pictures_are_drawn(tmp_path: Path, row: Row, float_row: Row, metrics: Path) -> None:
    noise = {"cnn.0": 31.5, "rnn": -2.0, "head": math.inf, "dead": -math.inf}
    drawn = draw_all(tmp_path / "figures", [float_row, row, replace(row, split="test_real")], noise, metrics)
    assert [path.name for path in drawn] == ["wer.png", "latency.png", "sqnr.png", "training.png"]
    for path in drawn:
        height, width = imread(path).shape[:2]
        assert height > 200 and width > 500
        assert imread(path).std() > 0.05, "not blank"


def test_nothing_measured_draws_nothing(tmp_path: Path, row: Row) -> None:
    bare = replace(row, wer=None, wer_ci95=None, latency_ms=None, notes=["wer: x", "latency_ms: x"])
    assert draw_wer(tmp_path / "a.png", [bare]) is None
    assert draw_latency(tmp_path / "b.png", [bare]) is None
    empty = tmp_path / "metrics.csv"
    empty.write_text("epoch,step\n0,1\n")
    assert draw_training(tmp_path / "c.png", empty) is None
    assert draw_all(tmp_path, [bare]) == []
    assert not list(tmp_path.glob("*.png"))


def test_missing_interval_draws_the_point(tmp_path: Path, row: Row) -> None:
    assert draw_wer(tmp_path / "a.png", [replace(row, wer_ci95=None)]) is not None


def test_log_is_read_by_column_and_its_gaps_are_skipped(metrics: Path) -> None:
    series = read_metrics(metrics, ("train/loss", "val/wer"))
    assert series == {"train/loss": [(19, 2.5), (39, 1.5)], "val/wer": [(40, 60.0), (80, 41.5)]}


def test_a_file_is_drawn_once_however_many_test_sets_it_has(row: Row, float_row: Row) -> None:
    slower = replace(
        row, method="ptq", latency_ms=replace(row.latency_ms, p50=13.0) if row.latency_ms else None
    )
    rows = [replace(item, split=split) for split in ("a", "b") for item in (float_row, slower, row)]
    assert [item.method for item in timed_files(rows)] == ["ptq", "deterministic"]


def point(weight: int, activation: int, wer: float) -> Point:
    return Point(f"W{weight} A{activation}", weight, activation, wer, (wer - 1, wer + 1), 1.0, 2.0)


def test_a_line_joins_only_points_that_differ_in_their_weights(tmp_path: Path) -> None:
    """W4 A4 is not further along than W2 A8: nothing orders the two."""
    points = {"nearest": [point(8, 8, 3.0), point(2, 8, 9.0), point(4, 4, 7.0), point(4, 8, 4.0)], "none": []}
    lines = [
        (activation, [item.label for item in line]) for _, activation, line in lines_by_activation(points)
    ]
    assert lines == [(8, ["W8 A8", "W4 A8", "W2 A8"]), (4, ["W4 A4"])]
    picture = draw_bits(tmp_path / "bits.png", points, 2.5, "demo")
    assert imread(picture).std() > 0.05, "not blank"
