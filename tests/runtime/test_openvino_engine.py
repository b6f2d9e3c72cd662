"""OpenVINO: what it cannot read is said in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qat.runtime.formats import Runner
from qat.runtime.openvino_engine import OpenVinoEngine, version
from qat.runtime.session import Session
from qat.system.errors import UserError
from tests.runtime.conftest import Exported


def test_a_file_of_onnx_runtimes_operators_names_the_format(crdnn: Exported) -> None:
    with pytest.raises(UserError, match="OpenVINO cannot read it .* export it with --export.format qdq"):
        OpenVinoEngine(crdnn.integer.path, 1)


def test_no_file_and_no_package_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert version().startswith("openvino 20")
    with pytest.raises(UserError, match="no such exported file"):
        Session(tmp_path / "x.onnx", runner=Runner("openvino"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="openvino must be installed"):
        Session(tmp_path / "x.onnx", runner=Runner("openvino"))
