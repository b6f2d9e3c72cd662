"""ONNX Runtime's quantizers in `benchmarks.peers`: dynamic, static, and 4-bit weights in blocks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.peers_subject import Built, Signal, Subject
from qat.runtime.session import Session
from qat.system.hardware import cpu_has_vnni

BLOCK = (
    32  # weights with a scale of their own, in 4 bits: the smallest that all of ONNX Runtime's kernels take
)


class Reader(CalibrationDataReader):
    """Utterances one at a time, as calibrators ask for them.

    Args:
        signals: samples `(S,)` each.
    """

    def __init__(self, signals: list[Signal]) -> None:
        self.signals = signals
        self.set_range(0, len(signals))

    def __len__(self) -> int:
        return len(self.signals)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read these next: `CalibStridedMinMax` calls it; without, calibrators stack unequal lengths and fail."""
        self.left = iter(self.signals[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        """Inputs of the next utterance; None after the last."""
        signal = next(self.left, None)
        if signal is None:
            return None
        return {"signal": signal[None], "lengths": np.array([signal.size], dtype=np.int64)}


def build(subject: Subject, options: dict[str, Any], folder: Path) -> Built:
    """Quantize the float file.

    Args:
        subject: the float model.
        options: `method`: `dynamic`, `static`, `nbits` or `hqq`; `kinds` of nodes for the dynamic one; for the static
            one `percentile`, `extractor_float`, and `lstm` for a second call that quantizes LSTMs dynamically.
        folder: for the files.
    """
    path = folder / "onnxruntime.onnx"
    if options["method"] == "dynamic":
        dynamic(subject, subject.float_file, path, options["kinds"])
    elif options["method"] == "static":
        static(subject, options, folder, path)
    else:
        four_bits(subject, options["method"] == "hqq", path)
    keep_metadata_(path, subject.float_file)
    return Built(Session(path, 1), path, "onnxruntime")


def dynamic(subject: Subject, source: Path, path: Path, kinds: list[str]) -> None:
    """Weights of 8 bits; activations take their ranges when the file runs."""
    quantize_dynamic(
        source,
        path,
        op_types_to_quantize=kinds,
        nodes_to_quantize=subject.nodes(kinds=kinds),
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=not cpu_has_vnni(),  # u8 x s8 products saturate where there is no VNNI
    )


def static(subject: Subject, options: dict[str, Any], folder: Path, path: Path) -> None:
    """Both of 8 bits, with ranges from calibration; one or two calls."""
    prepared, first = folder / "prepared.onnx", folder / "first.onnx" if options.get("lstm") else path
    quant_pre_process(str(subject.float_file), str(prepared), skip_symbolic_shape=True)
    kinds = ["Conv", "MatMul", "Gemm"]
    quantize_static(
        prepared,
        first,
        Reader(subject.calibrating),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=kinds,
        nodes_to_quantize=subject.nodes(bool(options.get("extractor_float")), kinds),
        per_channel=True,
        reduce_range=not cpu_has_vnni(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"CalibPercentile": options["percentile"], "CalibStridedMinMax": 1},
    )
    if options.get("lstm"):
        dynamic(subject, first, path, ["LSTM"])


def four_bits(subject: Subject, hqq: bool, path: Path) -> None:
    """Weights of linear layers in 4 bits, a scale for each block; activations in float."""
    nodes = subject.nodes(kinds=["MatMul"])
    model = onnx.load(str(subject.float_file))
    config = HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=4) if hqq else None
    quantizer = MatMulNBitsQuantizer(
        model,
        block_size=BLOCK,
        nodes_to_exclude=[node.name for node in model.graph.node if node.name not in nodes],
        algo_config=config,
    )
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    quantizer.process()
    onnx.save(quantizer.model.model, str(path))


def keep_metadata_(path: Path, source: Path) -> None:
    """Give a quantized file the vocabulary and the rate that the float file names: not all quantizers keep them."""
    model = onnx.load(str(path))
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(str(source)).metadata_props)
    onnx.save(model, str(path))
