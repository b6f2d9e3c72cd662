"""Quantized layers and models, exported once for all tests of the runtime: an export takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_, set_observing_
from qat.layers.swap import quantize_layer
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from qat.runtime.export import ExportInfo, export_onnx, trace
from qat.runtime.graph import optimised_graph
from qat.runtime.layers import replace_layers_
from qat.runtime.lstm import ExportedLSTM
from qat.runtime.packing import name_nodes_, pack_low_bits_
from tests.conftest import build, noise
from tests.once import made_once

FEATURES = 12
SAFE: dict[str, Any] = {"reduce_range": True}  # exact on every CPU: 8-bit weights may saturate without VNNI


def calibrate_(model: nn.Module, run: Callable[[], Any]) -> None:
    """Calibrate on what `run` feeds, then switch the quantizers on."""
    set_observing_(model, True)
    with torch.no_grad():
        run()
    set_observing_(model, False)
    calibrate_weights_(model)
    finish_calibration_(model)
    set_enabled_(model, True)


def quantized(kind: str, **recipe: Any) -> CTCModule:
    """A tiny calibrated model."""
    model = build(kind, Recipe(preset="test", **{**SAFE, **recipe})).eval()
    calibrate_(model, lambda: model(noise(1, 3.0), torch.tensor([48_000])))
    return model


def layer_zoo() -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """Name -> (float layer, recipe). The exporter folds constants below 8 kB, so stored weights need some size."""
    torch.manual_seed(1)
    lstm: dict[str, Any] = {"hidden_size": 6, "batch_first": True}
    return {
        "linear": (nn.Linear(FEATURES, 7), {}),
        "linear_frames": (nn.Linear(FEATURES, 7), {"activation_granularity": "frame"}),
        "linear_frames_3_bits": (
            nn.Linear(FEATURES, 7, bias=False),
            {"activation_granularity": "frame", "weight_bits": 3, "activation_bits": 4},
        ),
        "conv_frames": (
            nn.Conv1d(FEATURES, 6, 3, stride=2, padding=1),
            {"activation_granularity": "frame", "weight_bits": 4},
        ),
        "conv_frames_dilated": (
            nn.Conv1d(FEATURES, 6, 3, dilation=2, padding=2, padding_mode="reflect"),
            {"activation_granularity": "frame", "activation_bits": 4},
        ),
        "linear_no_bias": (nn.Linear(FEATURES, 7, bias=False), {"activation_signed": True}),
        "linear_per_tensor": (nn.Linear(FEATURES, 7), {"weight_granularity": "tensor"}),
        "linear_w4a4": (nn.Linear(FEATURES, 7), {"weight_bits": 4, "activation_bits": 4}),
        "linear_blocks": (nn.Linear(FEATURES, 7), {"weight_bits": 4, "four_bit_linear": "matmul_nbits"}),
        "linear_blocks_no_bias": (
            nn.Linear(FEATURES, 7, bias=False),
            {"weight_bits": 4, "four_bit_linear": "matmul_nbits"},
        ),
        "linear_w4_integer": (nn.Linear(FEATURES, 7), {"weight_bits": 4, "four_bit_linear": "integer"}),
        "linear_w3": (nn.Linear(FEATURES, 7), {"weight_bits": 3}),
        "linear_w2": (nn.Linear(FEATURES, 7), {"weight_bits": 2}),
        "linear_weights_only": (nn.Linear(FEATURES, 700), {"activation_bits": None}),
        "linear_activations_only": (nn.Linear(FEATURES, 7), {"weight_bits": None}),
        "conv1d": (nn.Conv1d(FEATURES, 8, 3, stride=2, padding=1, dilation=2), {}),
        "conv1d_grouped": (nn.Conv1d(FEATURES, 8, 4, padding=2, groups=4, bias=False), {"weight_bits": 4}),
        "conv1d_same": (nn.Conv1d(FEATURES, 5, 4, padding="same"), {"activation_bits": 6}),
        "conv1d_w2": (nn.Conv1d(FEATURES, 5, 3), {"weight_bits": 2}),
        "conv1d_weights_only": (nn.Conv1d(FEATURES, 256, 3), {"activation_bits": None}),
        "conv2d": (nn.Conv2d(1, 4, (3, 5), stride=(2, 1), padding=(0, 2)), {}),
        "conv2d_w3": (nn.Conv2d(1, 4, 3), {"weight_bits": 3}),
        "conv2d_reflect": (
            nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"),
            {"activation_signed": True},
        ),
        "conv2d_activations_only": (nn.Conv2d(1, 4, 3, padding=1), {"weight_bits": None}),
        "lstm": (nn.LSTM(FEATURES, **lstm), {}),
        "lstm_stacked_both_ways": (nn.LSTM(FEATURES, num_layers=2, bidirectional=True, **lstm), {}),
        "lstm_no_bias_w4a4": (
            nn.LSTM(FEATURES, bias=False, **lstm),
            {"weight_bits": 4, "activation_bits": 4},
        ),
        "lstm_w2": (nn.LSTM(FEATURES, **lstm), {"weight_bits": 2}),
        "lstm_weights_only": (nn.LSTM(FEATURES, 200, batch_first=True), {"activation_bits": None}),
    }


class Zoo(nn.Module):
    """Runs every layer of `layer_zoo` on `(B, T, F)` brought into the layer's shape."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: Tensor, frames: Tensor) -> list[Tensor]:
        """One output a layer."""
        return [run_layer(layer, x, frames) for layer in self.layers.values()]


def run_layer(layer: nn.Module, x: Tensor, frames: Tensor) -> Tensor:
    """One layer on `(B, T, F)`."""
    if isinstance(layer, ExportedLSTM):
        return layer(x, frames)
    if isinstance(layer, nn.LSTM):
        return layer(x)[0]
    if hasattr(layer, "kernel_size"):
        x = x.transpose(1, 2)
        return layer(x.unsqueeze(1) if len(layer.kernel_size) == 2 else x)
    return layer(x)


@dataclass
class ExportedZoo:
    """The fake-quantized layers and the same layers in one ONNX file."""

    reference: Zoo
    engine: ort.InferenceSession
    stored: onnx.ModelProto
    optimised: onnx.ModelProto

    def both(self, batch: int, frames: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer -> (output of the module, output of the file) on one seeded input; whole rows are valid."""
        generator = torch.Generator().manual_seed(batch * 100 + frames)
        x = torch.randn(batch, frames, FEATURES, generator=generator)
        lengths = torch.full((batch,), frames)
        with torch.no_grad():
            expected = self.reference(x, lengths)
        actual = self.engine.run(None, {"x": x.numpy(), "frames": lengths.numpy()})
        pairs = zip(expected, map(torch.from_numpy, actual), strict=True)
        return dict(zip(self.reference.layers, pairs, strict=True))


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> ExportedZoo:
    """All layers in one file."""
    layers = {
        name: quantize_layer(layer, LayerRecipe(**{**SAFE, **recipe}))
        for name, (layer, recipe) in layer_zoo().items()
    }
    reference, exported = Zoo(dict(layers)).eval(), Zoo(dict(layers)).eval()
    x = torch.randn(1, 400, FEATURES, generator=torch.Generator().manual_seed(0))
    calibrate_(reference, lambda: reference(x, torch.tensor([400])))
    with torch.no_grad():
        replace_layers_(exported, "integer")
    inputs = {"x": x[:, :20].repeat(2, 1, 1), "frames": torch.tensor([20, 20])}
    model = trace(exported, inputs, list(layers))
    name_nodes_(model, [])
    pack_low_bits_(model)
    path = tmp_path_factory.mktemp("zoo") / "zoo.onnx"
    ir.save(model, path)
    engine = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return ExportedZoo(reference, engine, onnx.load(str(path)), optimised_graph(path))


@dataclass
class Exported:
    """A quantized tiny model and its files."""

    module: CTCModule
    integer: ExportInfo
    float: ExportInfo | None


@pytest.fixture(scope="session")
def crdnn(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The tiny CRDNN and both of its files."""
    module = quantized("crdnn")

    def make(folder: Path) -> tuple[ExportInfo, ExportInfo]:
        integer = export_onnx(module, folder / "integer.onnx", "integer")
        return integer, export_onnx(module, folder / "float.onnx", "float")

    return Exported(module, *made_once(tmp_path_factory, "crdnn_exports", make))


@pytest.fixture(scope="session")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The tiny Wav2Vec2 and its integer file."""
    module = quantized("wav2vec2")

    def make(folder: Path) -> ExportInfo:
        return export_onnx(module, folder / "integer.onnx", "integer")

    return Exported(module, made_once(tmp_path_factory, "wav2vec2_exports", make), None)


@pytest.fixture(params=["crdnn", "wav2vec2"])
def exported(request: pytest.FixtureRequest) -> Exported:
    """Either model."""
    return request.getfixturevalue(request.param)


def output_folder(path: Path) -> list[str]:
    """Names of the files beside `path`."""
    return sorted(item.name for item in path.parent.iterdir())
