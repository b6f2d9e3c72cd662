"""The rows of `benchmarks.peers`: which quantizers, with which settings. Chosen once, none by a test set."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

OURS, RUNTIME, OPENVINO, TORCHAO, MODELOPT, BREVITAS = (
    "this project",
    "ONNX Runtime",
    "NNCF + OpenVINO",
    "torchao",
    "ModelOpt",
    "Brevitas",
)
BUILDERS = {
    OURS: "benchmarks.peers_ours",
    RUNTIME: "benchmarks.peers_onnxruntime",
    OPENVINO: "benchmarks.peers_openvino",
    TORCHAO: "benchmarks.peers_pytorch",
    MODELOPT: "benchmarks.peers_pytorch",
    BREVITAS: "benchmarks.peers_pytorch",
}
PACKAGES = {
    OURS: ("onnxruntime",),
    RUNTIME: ("onnxruntime",),
    OPENVINO: ("openvino", "nncf"),
    TORCHAO: ("torchao",),
    MODELOPT: ("nvidia-modelopt",),
    BREVITAS: ("brevitas",),
}
BOTH = ("crdnn", "wav2vec2")
EXTRACTOR = 7  # convolutions of a Wav2Vec2's feature extractor


@dataclass(frozen=True)
class Case:
    """One row.

    Args:
        peer: key of `BUILDERS`.
        setting: in words, unique for a peer and a model.
        bits: of weights and activations, `W8 A8`; `float` activations for weights alone.
        options: for the peer's `build`.
        models: kinds that have this row.
        fake: rounds in float (no file, so neither size nor speed).
    """

    peer: str
    setting: str
    bits: str
    options: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = BOTH
    fake: bool = False

    @property
    def name(self) -> str:
        """What `--only` looks in."""
        return f"{self.peer}: {self.setting} {self.bits}"

    @property
    def missing(self) -> str:
        """Which package is not installed; empty if none."""
        for package in PACKAGES[self.peer]:
            try:
                version(package)
            except PackageNotFoundError:
                return package
        return ""


def ours() -> list[Case]:
    """Presets as they are, and the recipe that a search finds."""
    wav2vec2 = ("wav2vec2",)
    presets = [
        Case(OURS, f"`{name}`", "W8 A8", {"preset": name})
        for name in ("ptq_max", "ptq_mse", "ptq_percentile", "adaround")
    ]
    four = {"preset": "adaround", "weight_bits": 4}
    framed = {**four, "by_frame": True}
    return [
        *presets,
        Case(
            OURS,
            "`ptq_percentile`, extractor by frame",
            "W8 A8",
            {"preset": "ptq_percentile", "by_frame": True},
            wav2vec2,
        ),
        Case(OURS, "`dynamic`", "W8 A8", {"preset": "dynamic"}),
        Case(OURS, "search without a budget", "chosen", {"search": True}),
        Case(OURS, "`adaround`", "W4 A8", four),
        Case(OURS, "`adaround`, extractor by frame", "W4 A8", framed, wav2vec2),
        Case(
            OURS,
            "`adaround`, extractor by frame, `four_bit_linear` integer",
            "W4 A8",
            {**framed, "four_bit_linear": "integer"},
            wav2vec2,
        ),
    ]


def onnx_runtime() -> list[Case]:
    """ONNX Runtime's own quantizers."""
    static = {"method": "static", "percentile": 99.9}
    kept = {**static, "extractor_float": True}
    crdnn, wav2vec2 = ("crdnn",), ("wav2vec2",)
    return [
        Case(RUNTIME, "dynamic, MatMul", "W8 A8", {"method": "dynamic", "kinds": ["MatMul"]}, wav2vec2),
        Case(
            RUNTIME,
            "dynamic, MatMul and LSTM",
            "W8 A8",
            {"method": "dynamic", "kinds": ["MatMul", "LSTM"]},
            crdnn,
        ),
        Case(RUNTIME, "static 99.9 %, LSTM float", "W8 A8", static, crdnn),
        Case(RUNTIME, "static 99.9 %, then dynamic LSTM", "W8 A8", {**static, "lstm": True}, crdnn),
        Case(RUNTIME, "static 99.9 %, extractor float", "W8 A8", kept, wav2vec2),
        Case(RUNTIME, "static 99.9 %, all layers", "W8 A8", static, wav2vec2),
        Case(RUNTIME, "MatMulNBits", "W4 float", {"method": "nbits"}),
        Case(RUNTIME, "MatMulNBits, HQQ", "W4 float", {"method": "hqq"}),
    ]


def others() -> list[Case]:
    """NNCF, and quantizers of PyTorch modules."""
    return [
        Case(OPENVINO, "post-training, all layers", "W8 A8"),
        Case(OPENVINO, "post-training, first convolution float", "W8 A8", {"float": 1}, ("wav2vec2",)),
        Case(OPENVINO, "post-training, extractor float", "W8 A8", {"float": EXTRACTOR}, ("wav2vec2",)),
        Case(OPENVINO, "weight compression", "W4 float", {"weights_only": True}),
        Case(TORCHAO, "dynamic, linear layers", "W8 A8", {"torchao": "w8a8"}),
        Case(TORCHAO, "weights alone, HQQ, linear layers", "W4 float", {"torchao": "hqq"}),
        Case(MODELOPT, "max", "W8 A8", {"modelopt": "max"}, fake=True),
        Case(MODELOPT, "SmoothQuant", "W8 A8", {"modelopt": "smoothquant"}, fake=True),
        Case(BREVITAS, "layer by layer", "W8 A8", {"brevitas": True}, ("wav2vec2",), fake=True),
        Case(BREVITAS, "layer by layer, LSTM float", "W8 A8", {"brevitas": True}, ("crdnn",), fake=True),
    ]


CASES = [*onnx_runtime(), *others(), *ours()]


def cases_of(kind: str) -> list[Case]:
    """All rows of a model."""
    return [case for case in CASES if kind in case.models]
