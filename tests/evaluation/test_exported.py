"""Exported files, and the cache of float ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.evaluation import exported
from qat.evaluation.exported import ExportedModel, export_candidate
from qat.evaluation.options import EvaluationOptions
from qat.runtime.export import ExportInfo
from qat.runtime.session import Session


def test_a_float_file_is_exported_once_and_then_copied(
    models: list[ExportedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def export(module: object, path: Path, precision: str) -> ExportInfo:
        written.append(precision)
        path.write_bytes(models[precision == "integer"].file.read_bytes())
        return ExportInfo(path, precision, 1.0, "0" * 64, packed=2 if precision == "integer" else 0)

    monkeypatch.setattr(exported, "export_onnx", export)
    options = EvaluationOptions(cache=str(tmp_path / "cache"))
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        found = [export_candidate(model.candidate, tmp_path / run, options, Session) for model in models]
        assert [model.file for model in found] == [
            tmp_path / run / "float.onnx",
            tmp_path / run / "model.onnx",
        ]
        assert [model.packed for model in found] == [0, 2] and [model.is_integer for model in found] == [
            False,
            True,
        ]
    assert written == ["float", "integer", "integer"]
    assert (tmp_path / "two" / "float.onnx").read_bytes() == models[0].file.read_bytes()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_file_is_opened_with_the_threads_asked_for(
    models: list[ExportedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        exported, "write_file", lambda candidate, file, cache: file.write_bytes(models[0].file.read_bytes())
    )
    found = export_candidate(models[0].candidate, tmp_path, EvaluationOptions(threads=2), Session)
    assert isinstance(found.recogniser, Session) and found.recogniser.threads == 2
