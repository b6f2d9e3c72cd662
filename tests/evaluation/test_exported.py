"""Exported files, and the cache of float ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qat.evaluation import exported
from qat.evaluation.exported import ExportedModel, export_candidate, write_file
from qat.evaluation.options import EvaluationOptions
from qat.runtime.export import ExportInfo
from qat.runtime.session import Session
from qat.system.files import sha256_file


def test_a_float_file_is_exported_once_and_then_copied(
    models: list[ExportedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def export(module: object, path: Path, precision: str, checkpoint_sha256: str, *more: str) -> ExportInfo:
        written.append(precision)
        assert checkpoint_sha256 == sha256_file(models[precision == "integer"].candidate.checkpoint)
        path = path.with_suffix(".onnx")
        path.write_bytes(models[precision == "integer"].file.read_bytes())
        return ExportInfo(path, precision, 1.0, "0" * 64, packed=2 if precision == "integer" else 0)

    monkeypatch.setattr(exported, "export", export)
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
    monkeypatch.setattr(exported, "write_file", lambda candidate, *more: (models[0].file, 0))
    found = export_candidate(models[0].candidate, tmp_path, EvaluationOptions(threads=2), Session)
    assert isinstance(found.recogniser, Session) and found.recogniser.threads == 2


def test_a_folder_of_graphs_is_kept_like_a_file(
    models: list[ExportedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def export(module: object, path: Path, precision: str, checkpoint_sha256: str, *more: str) -> ExportInfo:
        written.append(path)
        path.mkdir()
        for name in ("decoder_step.onnx", "encoder.onnx", "manifest.json"):
            (path / name).write_text(name)
        return ExportInfo(path, "float", 1.0, "0" * 64, packed=0)

    monkeypatch.setattr(exported, "export", export)
    cache = str(tmp_path / "cache")
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        file, packed = write_file(models[0].candidate, tmp_path / run / "float", cache)
        assert (file, packed) == (tmp_path / run / "float", 0)
        assert sorted(path.name for path in file.iterdir()) == [
            "decoder_step.onnx",
            "encoder.onnx",
            "manifest.json",
        ]
    assert written == [tmp_path / "one" / "float"] and len(list((tmp_path / "cache").iterdir())) == 1


def test_a_variant_has_a_place_of_its_own_in_the_cache_and_no_parity(
    models: list[ExportedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(module: object, path: Path, precision: str, checkpoint_sha256: str, *more: str) -> ExportInfo:
        path = path.with_suffix(".onnx")
        path.write_text(path.name)
        return ExportInfo(path, "float", 1.0, "0" * 64, packed=0)

    monkeypatch.setattr(exported, "export", export)
    variant = replace(models[0].candidate, name="float_no_lm", is_variant=True)
    for candidate in (models[0].candidate, variant):
        file, _ = write_file(candidate, tmp_path / candidate.name, str(tmp_path / "cache"))
        assert file.read_text() == f"{candidate.name}.onnx"
    integer = models[1]
    assert integer.has_parity and not models[0].has_parity
    assert not replace(integer, candidate=replace(integer.candidate, is_variant=True)).has_parity
