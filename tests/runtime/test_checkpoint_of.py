"""Which checkpoint an exported file or folder was made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qat.runtime.checkpoint_of import checkpoint_of, read_metadata
from qat.runtime.manifest import MANIFEST
from qat.runtime.session import Session
from tests.cli.stub import write_recogniser
from tests.runtime.conftest import Exported

DIGEST = "5" * 64


def test_the_metadata_are_those_that_the_engine_reads(crdnn: Exported) -> None:
    assert read_metadata(crdnn.integer.path) == Session(crdnn.integer.path).metadata


def test_a_file_and_a_folder_name_their_checkpoint(tmp_path: Path) -> None:
    write_recogniser(tmp_path / "model.onnx", "on", DIGEST)
    assert checkpoint_of(tmp_path / "model.onnx") == DIGEST
    (tmp_path / MANIFEST).write_text(json.dumps({"checkpoint_sha256": DIGEST}))
    assert checkpoint_of(tmp_path) == DIGEST


@pytest.mark.parametrize("content", [b"", b"not a model", b"[]", b"\xff" * 30, b"\x3a\x05ab"])
def test_what_is_missing_old_or_damaged_names_none(tmp_path: Path, content: bytes) -> None:
    write_recogniser(tmp_path / "old.onnx", "on")
    assert checkpoint_of(tmp_path / "old.onnx") == "" == checkpoint_of(tmp_path / "absent.onnx")
    (tmp_path / "bad.onnx").write_bytes(content)
    (tmp_path / MANIFEST).write_bytes(content)
    assert checkpoint_of(tmp_path / "bad.onnx") == "" == checkpoint_of(tmp_path)
    write_recogniser(tmp_path / "torn.onnx", "on", DIGEST)
    (tmp_path / "torn.onnx").write_bytes((tmp_path / "torn.onnx").read_bytes()[:-40])
    assert checkpoint_of(tmp_path / "torn.onnx") == ""
