"""The tiny CRDNN with both of its files, as candidates of a report, and the tiny corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.base import SpeechDataModule
from datamodules.manifest import ManifestDataModule
from qat.evaluation.candidates import Candidate, float_twin
from qat.evaluation.exported import ExportedModel
from qat.runtime.session import Session
from tests.runtime.conftest import Exported, crdnn, wav2vec2  # noqa: F401


@pytest.fixture
def models(crdnn: Exported) -> list[ExportedModel]:  # noqa: F811
    """The float model and the integer one."""
    assert crdnn.float is not None
    files = (crdnn.float.path, crdnn.integer.path)
    candidates = (
        Candidate("float", "float", float_twin(crdnn.module), files[0]),
        Candidate("model", "test", crdnn.module.eval(), files[1]),
    )
    return [
        ExportedModel(candidate, file, Session(file), 0)
        for candidate, file in zip(candidates, files, strict=True)
    ]


@pytest.fixture
def data(tiny_manifests: dict[str, Path]) -> SpeechDataModule:
    """The tiny corpus."""
    tests = {split: str(tiny_manifests[split]) for split in ("test_a", "test_b")}
    return ManifestDataModule(str(tiny_manifests["train"]), str(tiny_manifests["dev"]), tests)
