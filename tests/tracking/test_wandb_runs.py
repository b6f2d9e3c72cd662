"""Runs found by what a user types, and comparisons on Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import wandb

from qat.cli import evaluate as commands
from qat.report.compare import read_run
from qat.system.errors import UserError
from qat.tracking import wandb_runs
from qat.tracking.wandb_runs import find_runs
from tests.report.conftest import Make


def test_runs_are_found_by_name_folder_wandb_id_and_group(make: Make) -> None:
    one, two = make("one", [0], group="mine"), make("two", [1], group="mine")
    three = make("three", [2])
    assert find_runs(["one", str(two), "id-three", "id-one"]) == [one, two, three]
    assert find_runs(["mine"]) == [one, two]
    assert find_runs(["CRDNNModule"]) == [three]  # a run's group where none is configured


def test_runs_of_other_machines_are_fetched(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("one", [0])

    class Report:
        type = "report"

        def download(self, root: str) -> None:
            Path(root).mkdir(parents=True)
            for path in folder.iterdir():
                (Path(root) / path.name).write_bytes(path.read_bytes())

    class Remote:
        name, id = "far", "abc"

        def logged_artifacts(self) -> list[Any]:
            return [Report()]

    class Api:
        def __init__(self, timeout: int) -> None:
            self.timeout = timeout

        def run(self, path: str) -> Remote:
            if path != "team/project/abc":
                raise wandb.errors.CommError(f"no run {path}")
            return Remote()

        def runs(self, path: str, filters: dict[str, str]) -> list[Remote]:
            return [Remote()] if (path, filters) == ("speech-qat", {"group": "theirs"}) else []

    monkeypatch.setattr(wandb, "Api", Api)
    monkeypatch.setattr(wandb_runs, "choose_mode", lambda offline: ("online", "a key is stored"))
    assert find_runs(["team/project/abc"]) == [Path("checkpoints/wandb/far-abc")]
    assert read_run(Path("checkpoints/wandb/far-abc")).config["model.class_path"] == "qat.models.CRDNNModule"
    monkeypatch.setattr(Report, "download", lambda self, root: None)
    assert find_runs(["theirs"]) == [Path("checkpoints/wandb/far-abc")]
    with pytest.raises(UserError, match=r"'nothing': no run of that id or group on W&B holds a report"):
        find_runs(["nothing"])


def test_the_table_is_logged_to_wandb(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    make("one", [0, 1])
    make("two", [])
    logged: dict[str, Any] = {}
    monkeypatch.setattr(wandb.Run, "log", lambda self, values, *rest, **more: logged.update(values))
    commands.run(["compare", "one", "two", "--seed", "1"])
    assert logged["comparison"].columns[:2] == ["split", "run"]
    assert [line[1] for line in logged["comparison"].data] == ["two", "one"]
    assert "figures/wer" in logged
    assert Path("checkpoints/comparisons/one--two/comparison.md").is_file()
