"""The shipped models as files with float arithmetic, exported once for all workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.models.loading import load_module
from qat.runtime.export import export_onnx
from tests.conftest import ROOT
from tests.once import made_once


def float_file(factory: pytest.TempPathFactory, name: str) -> Path:
    """The file of `mini_crdnn` or `mini_wav2vec2`, for reading."""

    def make(folder: Path) -> Path:
        module = load_module(ROOT / "checkpoints" / name / "model.ckpt")
        return export_onnx(module, folder / "model.onnx", "float").path

    return made_once(factory, f"{name}_float", make)
