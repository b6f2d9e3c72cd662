"""What a model is exported to, and what runs it: names that the command line knows without either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from qat.layer_recipe import LayerFields
from qat.system.errors import UserError

FileFormat = Literal["onnxruntime", "qdq"]
Precision = Literal["integer", "float"]
EngineName = Literal["onnxruntime", "openvino"]
ProviderName = Literal["cpu", "cuda", "tensorrt"]
FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)
FORMAT_KEY = "format"  # in the metadata of a file that is not of the default one
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
PROVIDERS: tuple[ProviderName, ...] = get_args(ProviderName)


@dataclass(frozen=True)
class Runner:
    """What runs an exported file.

    Args:
        engine: onnxruntime or openvino.
        provider: cpu; of ONNX Runtime alone: cuda or tensorrt, its execution providers on an NVIDIA GPU.

    Raises:
        UserError: another name, or a GPU for OpenVINO.
    """

    engine: EngineName = "onnxruntime"
    provider: ProviderName = "cpu"

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"evaluation.engine: {self.engine!r}, must be {' or '.join(ENGINES)}")
        if self.provider not in PROVIDERS:
            raise UserError(f"evaluation.provider: {self.provider!r}, must be {' or '.join(PROVIDERS)}")
        if self.engine != "onnxruntime" and self.provider != "cpu":
            raise UserError(f"evaluation.provider: {self.provider!r}, must be cpu for engine {self.engine}")

    @property
    def is_default(self) -> bool:
        """ONNX Runtime on the CPU, which alone runs files of the default format."""
        return (self.engine, self.provider) == ("onnxruntime", "cpu")

    def __str__(self) -> str:
        """The flags that ask for it."""
        return f"engine {self.engine}" if self.provider == "cpu" else f"provider {self.provider}"


DEFAULT_RUNNER = Runner()


def check_target(recipe: LayerFields, file_format: FileFormat) -> None:
    """Refuse a file that the runtime of a recipe cannot read, or that cannot hold what the recipe quantizes.

    Raises:
        UserError: naming both.
    """
    target = recipe.target
    if target != "onnxruntime" and file_format != "qdq":
        raise UserError(
            f"export.format: {file_format!r}, must be qdq for a model of qat.target {target} (--export.format qdq)"
        )
    if recipe.attention_bits and file_format == "qdq":
        raise UserError(
            f"export.format: {file_format!r}, must be onnxruntime for a model of qat.attention_bits "
            f"{recipe.attention_bits}: standard operators have no scale for each row of the probabilities"
        )


@dataclass(frozen=True)
class ExportOptions:
    """What an integer model is exported to.

    Args:
        format: onnxruntime: integer operators as ONNX Runtime runs them, the fastest there; qdq: standard operators of
            ONNX alone, with QuantizeLinear/DequantizeLinear pairs that OpenVINO, TensorRT and ONNX Runtime know (LSTMs
            compute in float).

    Raises:
        UserError: another format.
    """

    format: FileFormat = "onnxruntime"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UserError(f"export.format: {self.format!r}, must be {' or '.join(FORMATS)}")

    def format_for(self, runner: Runner) -> FileFormat:
        """The format, for a runner that can read it.

        Raises:
            UserError: it cannot.
        """
        if not runner.is_default and self.format != "qdq":
            raise UserError(
                f"evaluation: {runner} runs standard operators alone; must go with format qdq (train.py "
                "--export.format qdq, evaluate.py report --format qdq)"
            )
        return self.format

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ExportOptions:
        """What the configuration of a run says."""
        return cls(**(config.get("export") or {}))
