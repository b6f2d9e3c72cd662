"""Running an exported file with OpenVINO (extra `openvino`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qat.runtime.checkpoint_of import read_metadata
from qat.system.errors import UserError

DEVICE = "CPU"


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: of it.
        shape: None for a free axis.
    """

    name: str
    shape: list[int | None]

    @classmethod
    def of(cls, port: Any) -> Port:
        """From OpenVINO's own."""
        sizes = port.get_partial_shape()
        return cls(port.get_any_name(), [size.get_length() if size.is_static else None for size in sizes])


class OpenVinoEngine:
    """One exported graph, compiled for the CPU.

    Args:
        path: an ONNX file.
        threads: at least 1.

    Raises:
        UserError: OpenVINO is not installed, no such file, or one that it cannot read.
    """

    def __init__(self, path: str | Path, threads: int) -> None:
        openvino = import_openvino()
        if not Path(path).is_file():
            raise UserError(f"{path}: no such exported file")
        # without the hint a processor with bfloat16 or float16 computes the float part of the model in it
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            core = openvino.Core()
            self.compiled = core.compile_model(core.read_model(str(path)), DEVICE, settings)
        except Exception as error:  # it raises RuntimeError for everything
            raise UserError(
                f"{path}: OpenVINO cannot read it ({last_line(error)}); export it with --export.format qdq"
            ) from None
        self.metadata = read_metadata(Path(path))

    def get_inputs(self) -> list[Port]:
        """As ONNX Runtime's sessions say it."""
        return [Port.of(item) for item in self.compiled.inputs]

    def get_outputs(self) -> list[Port]:
        """Likewise."""
        return [Port.of(item) for item in self.compiled.outputs]

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs by name."""
        found = self.compiled(dict(inputs))
        return [np.array(found[name]) for name in outputs]


def last_line(error: Exception) -> str:
    """What an error of OpenVINO says; the places in its sources come first.

    >>> last_line(RuntimeError("Exception from core.cpp:1:\\nno such operator\\n\\n"))
    'no such operator'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160] if lines else type(error).__name__


def import_openvino() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise UserError(
            "engine: openvino must be installed; pip install 'speech-qat[openvino]', or take onnxruntime"
        ) from None
    return openvino


def version() -> str:
    """Of the installed package, such as `openvino 2026.4.1`."""
    return f"openvino {str(import_openvino().__version__).partition('-')[0]}"
