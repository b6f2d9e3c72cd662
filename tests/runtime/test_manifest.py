"""An exported folder whose files are not what its manifest says is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qat.runtime.manifest import MANIFEST, is_exported_folder, read_manifest
from qat.system.errors import UserError
from tests.runtime.attention import ExportedAttention


@pytest.fixture
def folder(attention: ExportedAttention, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(attention.float.path, tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, **values: Any) -> None:
    """Write other values into a manifest."""
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_manifest_is_read_with_its_files(folder: Path) -> None:
    found = read_manifest(folder)
    assert found.method == "attention" and found.sample_rate == 16_000 and found.has_language_model
    assert len(found.files) == 4 and found.values["precision"] == "float"
    assert is_exported_folder(folder) and not is_exported_folder(folder.parent)


@pytest.mark.parametrize("name", ["encoder.onnx", "lm_step.onnx", "tokenizer.model"])
def test_a_changed_or_missing_file_is_one_line(folder: Path, name: str) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=f"{name}: must be the file that manifest.json names.*; export"
    ) as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=f"{name}: must be there, manifest.json beside it names it; export"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format_version": 2}, "format_version 2, must be 1; export the model again"),
        ({"search": {"beams": 3}}, "field 'beams' must be one of"),
        ({"search": {"beam": 0}}, "decoding.beam: 0, must be"),
        ({"files": 3}, "must be a manifest of ours"),
        ({"sample_rate": None}, "must be a manifest of ours"),
    ],
)
def test_a_manifest_of_another_kind_is_one_line(folder: Path, values: dict[str, Any], message: str) -> None:
    change(folder, **values)
    with pytest.raises(UserError, match=message):
        read_manifest(folder)


def test_a_folder_without_a_readable_manifest_is_one_line(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="must be a manifest of ours"):
        read_manifest(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="must hold manifest.json, as an exported folder does"):
        read_manifest(folder)
