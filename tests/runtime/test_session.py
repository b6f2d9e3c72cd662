"""Opening files and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qat.runtime.session import Session
from qat.system.errors import UserError
from tests.conftest import noise
from tests.runtime.conftest import Exported


def test_bad_files_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such exported file"):
        Session(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a readable ONNX file"):
        Session(tmp_path / "bad.onnx")


def test_bad_signals_are_refused(crdnn: Exported) -> None:
    session = Session(crdnn.integer.path)
    for signal in (np.zeros(0), np.zeros((2, 100)), np.array([0.0, np.nan])):
        with pytest.raises(UserError, match="signal"):
            session.transcribe(signal)
    with pytest.raises(UserError, match="threads"):
        Session(crdnn.integer.path, threads=0)


class FrameCounter:
    """A decoder that is not CTC."""

    def decode(self, logits: NDArray[Any]) -> str:
        return f"{len(logits)} frames"


def test_the_text_is_the_decoders(crdnn: Exported) -> None:
    signal = noise(1, 0.5)[0].numpy()
    session = Session(crdnn.integer.path, decoder=FrameCounter())
    assert session.transcribe(signal) == f"{len(session.logits(signal))} frames"
    assert Session(crdnn.integer.path).transcribe(signal) != session.transcribe(signal)
