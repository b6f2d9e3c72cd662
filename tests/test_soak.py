"""The soak notices what a kill may spoil, and runs that are killed end as those that are not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import soak
from tests.soak import SETUPS, Kill, attempt, how_to_resume, line_of, phase_of, summary
from tests.soak_compare import differences

ROW = {"split": "test", "method": "ptq", "wer": 1.5, "latency_ms": {"p50": 1.0}, "started_at": "now"}


def finished(folder: Path) -> Path:
    """A run's folder."""
    folder.mkdir()
    state = {"weight": torch.tensor([0.0, float("nan"), 1.0]), "steps": 3}
    torch.save({"state_dict": state, "optimizer_states": [{"step": 1}]}, folder / "last.ckpt")
    (folder / "report.json").write_text(json.dumps([ROW, {**ROW, "split": "other"}]))
    (folder / "wer.png").write_bytes(b"picture")
    (folder / "model.onnx").write_bytes(b"graph")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal runs."""
    return finished(tmp_path / "run"), finished(tmp_path / "whole")


def test_runs_that_differ_in_times_and_pictures_alone_are_equal(folders: tuple[Path, Path]) -> None:
    run, whole = folders
    later = {**ROW, "latency_ms": {"p50": 2.0}, "started_at": "later"}
    (run / "report.json").write_text(json.dumps([later, {**ROW, "split": "other"}]))
    (run / "wer.png").write_bytes(b"another")
    for folder, seconds in ((run, 1.0), (whole, 2.0)):
        torch.save({"reconstruction": [{"layer": "head", "seconds": seconds}]}, folder / "ptq.ckpt")
        saver = {"best_model_score": torch.tensor(5.0), "current_score": torch.tensor(seconds)}
        torch.save({"callbacks": {"ModelCheckpoint{'mode': 'min'}": saver}}, folder / "best.ckpt")
    assert differences(run, whole) == []


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("state_dict", {"weight": torch.tensor([-0.0, float("nan"), 1.0]), "steps": 3}, ".state_dict.weight"),
        ("state_dict", {"weight": torch.tensor([0.0, float("nan"), 1.0])}, ".state_dict (its keys)"),
        ("optimizer_states", [{"step": 2}], ".optimizer_states.0.step"),
    ],
)
def test_a_changed_bit_of_a_checkpoint_is_noticed(
    folders: tuple[Path, Path], key: str, value: Any, named: str
) -> None:
    run, whole = folders
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    torch.save({**checkpoint, key: value}, run / "last.ckpt")
    assert differences(run, whole) == [f"last.ckpt: {named}"]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([ROW], "report.json: 1 rows, must be 2"),
        ([ROW, {**ROW, "split": "other", "wer": 1.6}], "report.json: other, ptq: wer"),
    ],
)
def test_a_row_that_is_missing_or_differs_is_noticed(
    folders: tuple[Path, Path], rows: list[dict[str, Any]], named: str
) -> None:
    run, whole = folders
    (run / "report.json").write_text(json.dumps(rows))
    assert differences(run, whole) == [named]


def test_files_that_are_left_over_missing_or_other_are_noticed(folders: tuple[Path, Path]) -> None:
    run, whole = folders
    (run / ".last.ckpt.7.part").touch()
    (run / ".model.7.old").mkdir()
    (run / "wer.png").write_bytes(b"")
    (run / "model.onnx").write_bytes(b"grapH")
    (whole / "ptq.ckpt").touch()
    assert differences(run, whole) == [
        ".last.ckpt.7.part: left over",
        ".model.7.old: left over",
        "ptq.ckpt: missing",
        "model.onnx: other bytes",
        "wer.png: empty",
    ]


def test_what_a_run_was_doing_is_read_from_its_files_and_log(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    assert phase_of(run, log) == "starting"
    run.mkdir()
    for name, said, phase in [
        ("last.ckpt", "", "calibrating"),
        ("ptq.ckpt", "", "training"),
        ("model.ckpt", "", "exporting"),
        ("model.onnx", "x\ntranscribing test", "transcribing"),
        ("x", "x\ntiming float.onnx", "timing"),
        ("report.json", "", "ending"),
        (".wer.png.7.part", "", "saving wer.png"),
    ]:
        (run / name).touch()
        log.write_text(said)
        assert phase_of(run, log) == phase


def test_a_killed_run_resumes_as_the_documentation_says(tmp_path: Path) -> None:
    flags = ["--run", str(tmp_path)]
    assert how_to_resume(flags, tmp_path, True) == ("train", flags)
    (tmp_path / "last.ckpt").touch()
    assert how_to_resume(flags, tmp_path, True) == ("train", [*flags, "--ckpt_path", "last"])
    (tmp_path / "model.ckpt").touch()
    assert how_to_resume(flags, tmp_path, False) == ("train", [*flags, "--ckpt_path", "last"])
    assert how_to_resume(flags, tmp_path, True)[1][:2] == ["report", str(tmp_path)]


def test_a_run_that_was_faster_than_its_kill_is_not_counted() -> None:
    kills = [
        Kill(0, "a", 1.0, "training", "resume"),
        Kill(0, "a", 2.0, "exporting", "report", ["report.json: missing"]),
        Kill(1, "b", 9.0, "ended"),
        Kill(2, "b", 1.0, "training", "resume", []),
    ]
    rows = summary(kills)
    assert {"by": "phase", "value": "training", "kills": 2, "wrong": 1} in rows
    assert {"by": "run", "value": "b", "kills": 1, "wrong": 0} in rows
    assert "report.json: missing" in line_of(kills[1]) and line_of(kills[3]).endswith(": equal")


def test_what_another_commit_left_is_not_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def make(setup: Any, folder: Path) -> list[str]:
        made.append(folder)
        (folder / "run").mkdir()
        return ["--run", "x"]

    monkeypatch.setattr(soak, "write_run", make)
    monkeypatch.setattr(soak, "start", lambda *arguments: [])
    monkeypatch.setattr(soak, "finish", lambda *arguments: [0])
    for commit, count in (("a", 1), ("a", 1), ("b", 2)):
        monkeypatch.setattr(soak, "git_commit", lambda commit=commit: commit)
        assert soak.run_whole(SETUPS[0], tmp_path / "kind")[0] == ["--run", "x"] and len(made) == count


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_ends_as_one_that_is_not(tmp_path: Path) -> None:
    (setup,) = (item for item in SETUPS if item.name == "crdnn-deterministic-1")
    kills = attempt(setup, tmp_path / setup.name, 0, random.Random("2"))
    assert kills[-1].wrong == [] or kills[-1].phase == "ended"
