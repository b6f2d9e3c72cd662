import math
from pathlib import Path

import pytest
from matplotlib.image import imread

from qat.report.figures import draw_all, draw_latency, draw_training, draw_wer, read_metrics
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
    drawn = draw_all(tmp_path / "figures", [float_row, row, row | {"split": "test_real"}], noise, metrics)
    assert [path.name for path in drawn] == ["wer.png", "latency.png", "sqnr.png", "training.png"]
    for path in drawn:
        height, width = imread(path).shape[:2]
        assert height > 200 and width > 500
        assert imread(path).std() > 0.05, "not blank"


def test_nothing_measured_draws_nothing(tmp_path: Path, row: Row) -> None:
    bare = row | {"wer": None, "wer_ci95": None, "latency_ms": None, "notes": ["wer: x", "latency_ms: x"]}
    assert draw_wer(tmp_path / "a.png", [bare]) is None
    assert draw_latency(tmp_path / "b.png", [bare]) is None
    empty = tmp_path / "metrics.csv"
    empty.write_text("epoch,step\n0,1\n")
    assert draw_training(tmp_path / "c.png", empty) is None
    assert draw_all(tmp_path, [bare]) == []
    assert not list(tmp_path.glob("*.png"))


def test_missing_interval_draws_the_point(tmp_path: Path, row: Row) -> None:
    assert draw_wer(tmp_path / "a.png", [row | {"wer_ci95": None}]) is not None


def test_log_is_read_by_column_and_its_gaps_are_skipped(metrics: Path) -> None:
    series = read_metrics(metrics, ("train/loss", "val/wer"))
    assert series == {"train/loss": [(19, 2.5), (39, 1.5)], "val/wer": [(40, 60.0), (80, 41.5)]}
