"""`evaluate.py transcribe`: one line per file, with an exported file that is made when it is missing or old."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from qat.cli.transcribe import integer_file, transcribe
from qat.models.loading import save_module
from qat.recipe import Recipe
from qat.system.errors import UserError
from tests.cli.stub import write_recogniser
from tests.conftest import build


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A float CRDNN that is finished."""
    save_module(build("crdnn"), tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Precisions of the files that were exported since."""
    precisions: list[str] = []

    def export(module: Any, path: Path, precision: str) -> None:
        precisions.append(precision)
        write_recogniser(path, "turn it on")

    monkeypatch.setattr("qat.runtime.export.export_onnx", export)
    return precisions


def test_each_file_is_a_line_with_its_text(
    checkpoint: Path, exports: list[str], tiny_manifests: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tiny_manifests["train"].parent / f"train-{index}.wav" for index in range(2)]
    transcribe(str(checkpoint.parent), files, threads=1)
    assert capsys.readouterr().out == "".join(f"{file}\tturn it on\n" for file in files)


def test_a_file_is_exported_when_it_is_missing_or_older_than_its_checkpoint(
    checkpoint: Path, exports: list[str]
) -> None:
    exported = integer_file(checkpoint)
    assert exported == checkpoint.with_suffix(".onnx") and exports == ["float"]
    assert integer_file(checkpoint) == exported and exports == ["float"]
    os.utime(exported, ns=(0, 0))
    assert integer_file(checkpoint) == exported and exports == ["float", "float"]


def test_a_quantized_model_has_an_integer_file(tmp_path: Path, exports: list[str]) -> None:
    save_module(build("crdnn", Recipe(preset="x")), tmp_path / "model.ckpt")
    integer_file(tmp_path / "model.ckpt")
    assert exports == ["integer"]


def test_bad_audio_is_reported_before_anything_is_built(
    checkpoint: Path, tmp_path: Path, exports: list[str]
) -> None:
    with pytest.raises(UserError, match=r"absent\.wav"):
        transcribe(str(checkpoint), [tmp_path / "absent.wav"], threads=1)
    assert not exports
