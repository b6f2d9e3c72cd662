"""The whole report of measurements."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules.manifest import ManifestDataModule
from datamodules.utterance import Utterance
from qat.evaluation.options import EvaluationOptions
from qat.report import build
from qat.report.build import conditions_of, report_checkpoint
from qat.report.row import load_report
from qat.report.rows import rows_of
from tests.datamodules.corpora import write_split
from tests.evaluation.measurements import conditions, float_measurement, integer_measurement


class MiniDataModule(SimpleNamespace):
    """Named like a data module, without any utterance."""

    test_splits = ("test_seen", "test_real")

    def can_list(self, split: str) -> bool:
        return True

    def utterances(self, split: str) -> list[Utterance]:
        return []


def test_files_are_those_of_the_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    measured = [float_measurement(), integer_measurement(sqnr_db={"rnn": 30.0})]
    monkeypatch.setattr(build, "measure", lambda *arguments: measured)
    data: Any = MiniDataModule()
    rows = report_checkpoint(folder / "model.ckpt", folder, data, {"seed_everything": 1}, EvaluationOptions())
    assert {path.name for path in folder.iterdir()} == {
        *("report.json", "report.md", "README.md", "utterances.json", "worst.json"),
        *("wer.png", "latency.png", "sqnr.png"),
    }
    assert load_report(folder / "report.json") == rows
    assert [(row.split, row.method, row.wer) for row in rows] == [
        (row.split, row.method, row.wer) for row in rows_of(measured, conditions())
    ]
    assert list(json.loads((folder / "worst.json").read_text())) == ["test_seen", "test_real"]
    assert "mini corpus" in (folder / "README.md").read_text()
    assert "deterministic" in capsys.readouterr().out


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "measure", lambda *arguments: [])
    data: Any = MiniDataModule()
    assert report_checkpoint(tmp_path / "model.ckpt", tmp_path, data, {}, EvaluationOptions()) == []
    assert list(tmp_path.iterdir()) == []


def test_conditions_come_from_data_configuration_and_options() -> None:
    data: Any = MiniDataModule()
    found = conditions_of("demo", data, {"seed_everything": 7}, EvaluationOptions(seed=3, threads=2), 0.0)
    assert (found.run, found.dataset, found.seed, found.bootstrap_seed) == ("demo", "mini", 7, 3)
    assert (found.threads, found.batch_size, found.repeats) == (2, 1, 20)
    assert conditions_of("demo", data, {}, EvaluationOptions(), 0.0).seed == 0
    assert found.provenance["started_at"] == "1970-01-01T00:00:00+00:00"
    assert (found.texts_in_train, found.trained_on) == ({"test_seen": 0, "test_real": 0}, None)


def test_a_report_does_not_need_the_training_set(tmp_path: Path) -> None:
    test = str(write_split(tmp_path, "test", 2))
    data = ManifestDataModule(train="gone.jsonl", dev="gone.jsonl", test=test)
    assert conditions_of("demo", data, {}, EvaluationOptions(), 0.0).texts_in_train == {}
