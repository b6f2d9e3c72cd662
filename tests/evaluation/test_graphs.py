"""Nodes, constants and bytes of exported files and folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qat.evaluation.graphs import constants_sha256, exports_in, graphs_of, nodes_of, size_mb
from qat.evaluation.guards import initializers_sha256
from qat.runtime.manifest import MANIFEST
from tests.runtime.conftest import Exported


@pytest.fixture
def folder(crdnn: Exported, tmp_path: Path) -> Path:
    """Both files of a model, as if they were the graphs of one folder."""
    assert crdnn.float is not None
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    shutil.copyfile(crdnn.integer.path, folder / "encoder.onnx")
    shutil.copyfile(crdnn.float.path, folder / "lm_step.onnx")
    (folder / MANIFEST).write_text("{}")
    return folder


def test_a_folder_holds_the_nodes_of_all_its_graphs(crdnn: Exported, folder: Path) -> None:
    assert crdnn.float is not None
    integer, plain, both = (nodes_of(path) for path in (crdnn.integer.path, crdnn.float.path, folder))
    assert len(both.integer) == len(integer.integer) and integer.integer and not plain.integer
    assert len(both.float_compute) == len(integer.float_compute) + len(plain.float_compute)
    assert len(both.float_weights) == len(both.float_compute)


def test_a_folder_weighs_what_its_files_weigh(crdnn: Exported, folder: Path) -> None:
    assert crdnn.float is not None
    assert size_mb(crdnn.integer.path) == pytest.approx(crdnn.integer.size_mb)
    assert size_mb(folder) == pytest.approx(crdnn.integer.size_mb + crdnn.float.size_mb + 2e-6)


def test_constants_of_a_folder_are_told_apart(crdnn: Exported, folder: Path) -> None:
    assert constants_sha256(crdnn.integer.path) == initializers_sha256(crdnn.integer.path)
    before = constants_sha256(folder)
    shutil.copyfile(crdnn.integer.path, folder / "lm_step.onnx")
    assert len({before, constants_sha256(folder), constants_sha256(crdnn.integer.path)}) == 3


def test_a_run_holds_exported_files_and_folders(folder: Path) -> None:
    run = folder.parent
    for name in ("float.onnx", "other/x.onnx", ".part/y.onnx"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
    assert [path.name for path in exports_in(run)] == ["float.onnx", "model"]
    assert [path.name for path in graphs_of(folder)] == ["encoder.onnx", "lm_step.onnx"]
    assert graphs_of(run / "float.onnx") == [run / "float.onnx"]
