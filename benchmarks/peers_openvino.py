"""NNCF on OpenVINO in `benchmarks.peers`: 8 bits after training, and weights alone in 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers_subject import Built, Subject
from datamodules.shortest import SHORTEST
from qat.decoding.recogniser import Decoder
from qat.search.cost import REST, owner_of

GROUP = 16  # weights with a scale of their own, in 4 bits: must divide the widths of all layers, such as 144
LSTMS = ("LSTMSequence", "LSTMCell")  # OpenVINO's names of them do not say which layer they are


class OpenVINOSession:
    """A model of OpenVINO's on the CPU, with a decoder.

    Args:
        path: `.xml` or `.onnx`.
        decoder: of the logits.
        threads: at least 1.
    """

    def __init__(self, path: Path, decoder: Decoder | None = None, threads: int = 1) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.model = openvino.Core().compile_model(str(path), "CPU", settings)
        self.decoder = decoder

    def run(self, signal: NDArray[Any], lengths: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Zero-padded `(B, S)` float32, `(B,)` int64 -> (logits `(B, T, V)`, frames `(B,)`)."""
        padded = np.pad(signal, ((0, 0), (0, max(0, SHORTEST - signal.shape[1]))))
        found = self.model({"signal": padded, "lengths": lengths})
        return found["logits"], found["frames"]

    def transcribe(self, signal: NDArray[Any]) -> str:
        """Samples `(S,)` -> text."""
        assert self.decoder is not None
        logits, frames = self.run(signal[None], np.array([signal.size], dtype=np.int64))
        return self.decoder.decode(logits[0, : int(frames[0])])


def build(subject: Subject, options: dict[str, Any], folder: Path) -> Built:
    """Quantize the float file, save it as OpenVINO does (what stays float in 16 bits), and open what was saved.

    Args:
        subject: the float model.
        options: `weights_only` for 4-bit weights; `float`: so many of the extractor's convolutions stay float.
        folder: for the files.
    """
    kept = subject.extractor[: int(options.get("float", 0))]
    layers, target = [name for name in subject.layers if name not in kept], folder / "openvino"
    if options.get("weights_only"):
        compress(subject.float_file, layers, target)
    else:
        quantize(subject.float_file, subject.calibrating, layers, subject.kind == "wav2vec2", target)
    return Built(OpenVINOSession(target / "model.xml", subject.float_session.decoder), target, "openvino")


def quantize(
    file: Path, signals: Sequence[NDArray[Any]], layers: Sequence[str], is_transformer: bool, target: Path
) -> Path:
    """Quantize weights and activations of a float file to 8 bits.

    Args:
        file: `.onnx`.
        signals: samples `(S,)` that give the ranges.
        layers: that are quantized.
        is_transformer: what NNCF is told of the model.
        target: folder for the files.

    Returns:
        The folder.
    """
    import nncf
    import openvino

    model = openvino.Core().read_model(str(file))
    inputs = [
        {"signal": signal[None], "lengths": np.array([signal.size], dtype=np.int64)} for signal in signals
    ]
    model = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        ignored_scope=nncf.IgnoredScope(names=outside(layers, model)),
        model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
    )
    target.mkdir(exist_ok=True)
    openvino.save_model(model, str(target / "model.xml"))
    return target


def compress(file: Path, layers: Sequence[str], target: Path) -> None:
    """Store weights of a float file in 4 bits; activations stay float."""
    import nncf
    import openvino

    model = openvino.Core().read_model(str(file))
    model = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        ratio=1.0,
        group_size=GROUP,
        all_layers=True,
        ignored_scope=nncf.IgnoredScope(names=outside(layers, model)),
    )
    target.mkdir(exist_ok=True)
    openvino.save_model(model, str(target / "model.xml"))


def outside(layers: Sequence[str], model: Any) -> list[str]:
    """Names of all operations that belong to no layer that is to be quantized.

    Features and normalisation among them: quantized as well, they leave a model that recognises nothing.
    """
    unnamed = {"Constant", "Parameter", "Result", *LSTMS}
    return [
        operation.get_friendly_name()
        for operation in model.get_ops()
        if operation.get_type_name() not in unnamed
        and owner_of(operation.get_friendly_name(), layers) == REST
    ]
