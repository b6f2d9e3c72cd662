"""metrics.csv and its rows in checkpoints."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from qat.tracking.csv_log import MetricsLog, rows_before


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_resumed_log_has_the_rows_of_its_checkpoint_and_no_others(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run")
    log.log_metrics({"train/loss": torch.tensor(2.5)}, 0)
    log.log_metrics({"val/wer": 40.0}, 1)
    state = log.state()
    log.log_metrics({"train/loss": 1.5}, 2)  # lost by a kill
    log.save()
    again = MetricsLog(tmp_path / "run", state)
    again.log_metrics({"train/loss": 1.25}, 2)
    again.save()
    assert state == [{"train/loss": 2.5, "step": 0}, {"val/wer": 40.0, "step": 1}]
    assert read(tmp_path / "run") == [
        {"train/loss": "2.5", "step": "0"},
        {"val/wer": "40.0", "step": "1"},
        {"train/loss": "1.25", "step": "2"},
    ]


def test_a_checkpoint_carries_the_row_that_is_logged_after_it(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run")
    log.expect({"train/loss": 2.0}, 0)
    assert log.state() == [{"train/loss": 2.0, "step": 0}] and log.rows == []
    log.log_metrics({"train/loss": 2.0}, 0)
    assert log.state() == [{"train/loss": 2.0, "step": 0}]


def test_rows_before_a_step_are_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert rows_before(path, 9) == []
    path.write_text("epoch,step,train/loss,val/wer\n0,1,2.5,\n0,2,,40.0\n1,3,1.5,\n")
    assert rows_before(path, 3) == [
        {"epoch": 0, "step": 1, "train/loss": 2.5},
        {"epoch": 0, "step": 2, "val/wer": 40.0},
    ]
