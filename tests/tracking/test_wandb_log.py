"""The logger: never asks, never blocks, resumes without doubled rows."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import wandb

from qat.report.row import Row
from qat.tracking import wandb_log
from qat.tracking.wandb_log import wandb_logger
from qat.tracking.wandb_report import log_report
from tests.tracking.test_wandb_report import worst


def test_without_wandb_everything_else_works(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert wandb_logger(tmp_path, "p") is None
    assert capsys.readouterr().err == "W&B: not used (wandb is not installed); metrics.csv has everything\n"
    log_report(None, [row])


def test_a_failing_server_falls_back_to_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modes = []

    def start(run_dir: Path, project: str, name: str, group: str | None, mode: str) -> None:
        modes.append(mode)
        raise wandb.errors.CommError("server said no\nat length")

    monkeypatch.setattr(wandb_log, "start", start)
    monkeypatch.setattr(wandb_log, "choose_mode", lambda offline: ("online", "a key is stored"))
    assert wandb_logger(tmp_path, "p") is None
    assert modes == ["online", "offline"]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_resumed_run_keeps_its_id_and_gets_the_report(
    tmp_path: Path, row: Row, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    folder = tmp_path / "run"
    ids, summaries = [], []
    for step in (1, 2):
        logger = wandb_logger(folder, "speech-qat", "demo", "group", {"model": {"bits": [4, 8]}})
        assert logger is not None
        run = logger.experiment
        logger.log_metrics({"val/wer": 30.0 - step}, step=step)
        log_report(run, [row], worst(3), {}, [], [])
        ids.append(run.id)
        summaries.append(dict(run.summary))
        assert run.config["model"] == {"bits": [4, 8]} and run.settings.mode == "offline"
        run.finish()
    assert ids[0] == ids[1] == (folder / "wandb_id").read_text().strip()
    assert summaries[0]["test_seen/wer"] == 12.5
    assert len(list((folder / "wandb").glob(f"offline-run-*-{ids[0]}*"))) == 2
    assert list((folder / "wandb").glob("offline-run-*/files/media/table/worst_utterances*.json"))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("W&B:")]
    assert len(said) == 2 and "offline (no W&B key is stored" in said[0]
    assert time.monotonic() - started < 120  # never waits for a network; usually 5 s


def test_a_resumed_run_does_not_log_a_row_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows after the checkpoint were logged before the kill; those that were not come once."""
    rows: list[dict[str, float]] = []
    monkeypatch.setattr(wandb.Run, "log", lambda self, values, **more: rows.append(dict(values)))
    for first, last in ((0, 7), (4, 12)):
        logger = wandb_logger(tmp_path / "run", "speech-qat")
        assert logger is not None
        for step in range(first, last):
            logger.log_metrics({"lr": 0.1}, step=step)
            if step % 4 == 3:
                logger.log_metrics({"val/wer": 9.0, "epoch": step // 4}, step=step)
        logger.experiment.finish()
    steps = [int(row["trainer/global_step"]) for row in rows if "lr" in row]
    assert steps == list(range(12))
    assert [int(row["trainer/global_step"]) for row in rows if "val/wer" in row] == [3, 7, 11]
