"""Running an exported file with ONNX Runtime: needs numpy and onnxruntime, but no PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from datamodules.shortest import SHORTEST
from qat.decoding.ctc import GreedyCTC
from qat.decoding.recogniser import Decoder, Emission
from qat.decoding.windows import Frames
from qat.runtime.formats import DEFAULT_RUNNER, ProviderName, Runner
from qat.runtime.gpu import CPU, NAMES, open_on_gpu
from qat.runtime.manifest import FRAME_KEY
from qat.runtime.openvino_engine import DEVICE, OpenVinoEngine
from qat.system.errors import UserError, first_line

PROVIDER = CPU


def session_options(threads: int) -> ort.SessionOptions:
    """Options of every session of ours: all optimisations, `threads` threads that sleep between runs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Threads spin while a run lasts alone: spinning pools of two sessions disturb each other's timing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Signed levels, as TensorRT's files have them, stay signed: ONNX Runtime 1.32 moves them without their type.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


def open_engine(path: str | Path, threads: int, provider: ProviderName = "cpu") -> ort.InferenceSession:
    """The engine of one graph.

    Raises:
        UserError: no such file, not an ONNX file, a bad number of threads, or a provider that is not there.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such exported file")
    if threads < 1:
        raise UserError(f"threads: {threads}, must be 1 or more")
    if provider != "cpu":
        return open_on_gpu(path, session_options(threads), provider)
    try:
        engine = ort.InferenceSession(str(path), session_options(threads), providers=[PROVIDER])
    except Exception as error:  # onnxruntime's errors share no base class
        raise UserError(f"{path}: not a readable ONNX file ({first_line(error, 120)})") from None
    if engine.get_providers() != [PROVIDER]:
        raise RuntimeError(f"{path}: runs on {engine.get_providers()}, not on {PROVIDER} alone")
    return engine


def open_graph(path: str | Path, threads: int, runner: Runner) -> Any:
    """What runs one graph: an `onnxruntime.InferenceSession`, or what looks like one.

    Raises:
        UserError: see `open_engine` and `OpenVinoEngine`.
    """
    if runner.engine == "openvino":
        return OpenVinoEngine(path, threads)
    return open_engine(path, threads, runner.provider)


def provider_of(runner: Runner) -> str:
    """What a report calls the part of the engine that computes."""
    return DEVICE if runner.engine == "openvino" else NAMES[runner.provider]


def check_signal(signal: NDArray[Any]) -> NDArray[Any]:
    """Samples `(S,)` as float32.

    Raises:
        UserError: empty, not one-dimensional, or not finite.
    """
    signal = np.asarray(signal, dtype=np.float32)
    if signal.ndim != 1 or not signal.size:
        raise UserError(f"signal: shape {signal.shape}, must be one channel `(S,)` of at least one sample")
    if not np.isfinite(signal).all():
        raise UserError("signal: holds NaN or infinite samples, must be finite")
    return signal


class Session:
    """An exported recogniser: an ONNX file with a decoder.

    Args:
        path: an ONNX file of `export_onnx`.
        threads: at least 1.
        decoder: of the logits; None takes greedy CTC.
        runner: engine and provider.

    Raises:
        UserError: no such file, not an ONNX file of ours, a bad number of threads, or a runner that is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int = 1,
        decoder: Decoder | None = None,
        runner: Runner = DEFAULT_RUNNER,
    ) -> None:
        self.path, self.threads = Path(path), threads
        self.engine, self.provider = open_graph(path, threads, runner), provider_of(runner)
        self.metadata = (
            dict(self.engine.get_modelmeta().custom_metadata_map)
            if isinstance(self.engine, ort.InferenceSession)
            else self.engine.metadata
        )
        if "symbols" not in self.metadata:
            raise UserError(f"{path}: not an exported recogniser (its metadata lack the vocabulary)")
        self.vocabulary: list[str] = json.loads(self.metadata["vocabulary"])
        self.symbols: list[str] = json.loads(self.metadata["symbols"])
        self.blank = int(self.metadata.get("blank", 0))
        self.decoder: Decoder = decoder or GreedyCTC(self.symbols, self.blank)
        self.sample_rate = int(self.metadata["sample_rate"])

    @property
    def frames(self) -> Frames:
        """The frames that it emits, which a long recording is joined by.

        Raises:
            UserError: the file is of a version that did not say so.
        """
        if FRAME_KEY not in self.metadata:
            raise UserError(f"{self.path}: must say {FRAME_KEY} for a long recording; export the model again")
        return Frames(int(self.metadata[FRAME_KEY]), self.blank)

    def run(self, signal: NDArray[Any], lengths: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Zero-padded `(B, S)` float32, `(B,)` int64 -> (logits `(B, T, V)`, frames `(B,)`)."""
        if signal.shape[1] < SHORTEST:
            signal = np.pad(signal, ((0, 0), (0, SHORTEST - signal.shape[1])))
        logits, frames = self.engine.run(["logits", "frames"], {"signal": signal, "lengths": lengths})
        return logits, frames

    def logits(self, signal: NDArray[Any]) -> NDArray[Any]:
        """Samples `(S,)` at `sample_rate` in [-1, 1] -> logits `(T, V)` of the valid frames.

        Raises:
            UserError: empty, not one-dimensional, or not finite.
        """
        signal = check_signal(signal)
        logits, frames = self.run(signal[None], np.array([signal.size], dtype=np.int64))
        return logits[0, : int(frames[0])]

    def decode(self, logits: NDArray[Any]) -> str:
        """Logits `(T, V)` -> text."""
        return self.decoder.decode(logits)

    def emit(self, signal: NDArray[Any]) -> Emission:
        """Samples `(S,)` -> logits of the valid frames; raises as `logits`."""
        return Emission(self.logits(signal))

    def text_of(self, emission: Emission) -> str:
        """Logits -> text."""
        return self.decode(emission.logits)

    def transcribe(self, signal: NDArray[Any]) -> str:
        """Samples `(S,)` -> text."""
        return self.text_of(self.emit(signal))
