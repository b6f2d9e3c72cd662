"""A GRU over sequences in a file: a Scan whose products run on integers, as the fake-quantized layer computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from qat.layer_recipe import LayerRecipe
from qat.layers.swap import quantize_layer
from qat.runtime.export import trace
from qat.runtime.graph import count_nodes, optimised_graph
from qat.runtime.gru import ExportedGRU
from qat.runtime.layers import exported_layer
from qat.runtime.packing import name_nodes_, pack_low_bits_
from qat.system.errors import UserError
from tests.runtime.conftest import SAFE, calibrate_

INPUTS, HIDDEN = 12, 16
LAYERS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "plain": ({}, None),
    "both_ways": ({"bidirectional": True, "num_layers": 2}, {}),
    "w3a4": ({"bias": False}, {"weight_bits": 3, "activation_bits": 4, "activation_granularity": "frame"}),
    "weights_only": ({}, {"activation_bits": None, "weight_bits": 4}),
    "activations_only": ({}, {"weight_bits": None}),
}
ROUNDING = 3e-6  # sigmoid and tanh are computed otherwise
STEP = 0.03  # a level of the state, which may then round the other way


class Layers(nn.Module):
    """All layers on one padded batch."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: Tensor, frames: Tensor) -> list[Tensor]:
        return [run(layer, x, frames) for layer in self.layers.values()]


def run(layer: nn.Module, x: Tensor, frames: Tensor) -> Tensor:
    """One layer on `(B, T, I)`."""
    if isinstance(layer, ExportedGRU):
        return layer(x, frames)
    packed = pack_padded_sequence(x, frames, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(layer(packed)[0], batch_first=True)[0]


@dataclass
class Exported:
    """The layers and their file."""

    reference: Layers
    engine: ort.InferenceSession
    stored: onnx.ModelProto
    optimised: onnx.ModelProto


@pytest.fixture(scope="module")
def grus(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """All layers in one file."""
    torch.manual_seed(3)
    layers: dict[str, nn.Module] = {}
    for name, (shape, fields) in LAYERS.items():
        layer: nn.Module = nn.GRU(INPUTS, HIDDEN, batch_first=True, **shape)
        layers[name] = layer if fields is None else quantize_layer(layer, LayerRecipe(**{**SAFE, **fields}))
    reference, x, frames = Layers(layers).eval(), torch.randn(20, 9, INPUTS), torch.full((20,), 9)
    calibrate_(reference, lambda: reference(x, frames))
    with torch.no_grad():
        made = Layers({name: exported_layer(layer, "integer") for name, layer in layers.items()})
        model = trace(made, {"x": x[:3], "frames": frames[:3]}, list(layers))
    name_nodes_(model, [])
    pack_low_bits_(model)
    path = tmp_path_factory.mktemp("gru") / "gru.onnx"
    ir.save(model, path)
    engine = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return Exported(reference, engine, onnx.load(str(path)), optimised_graph(path))


@pytest.mark.parametrize("lengths", [[7], [5, 8, 1, 8]])
@torch.no_grad()
def test_the_file_computes_what_the_layers_do_on_utterances_of_unequal_length(
    grus: Exported, lengths: list[int]
) -> None:
    frames = torch.tensor(lengths)
    x = torch.randn(len(lengths), max(lengths), INPUTS, generator=torch.Generator().manual_seed(1))
    expected = grus.reference(x, frames)
    actual = grus.engine.run(None, {"x": x.numpy(), "frames": frames.numpy()})
    for name, one, two in zip(LAYERS, expected, map(torch.from_numpy, actual), strict=True):
        assert one.shape == two.shape, name
        difference = (one - two).abs()
        assert float(difference.max()) < STEP and float((difference > ROUNDING).float().mean()) < 0.02, name


def test_every_product_runs_on_integers_where_both_sides_are_quantized(grus: Exported) -> None:
    counts = count_nodes(grus.optimised)
    for name, products in (("both_ways", 8), ("w3a4", 2)):
        inside = (f"layers.{name}.", f"layers.{name}/")
        found = [kind for node, kind in counts.integer.items() if node.startswith(inside)]
        assert found == ["MatMulIntegerToFloat"] * products
        assert not [node for node in counts.float_compute if node.startswith(inside)]
    for name in ("plain", "weights_only", "activations_only"):
        assert len([node for node in counts.float_compute if node.startswith(f"layers.{name}")]) == 2, name


def test_recurrent_weights_of_few_bits_are_packed(grus: Exported) -> None:
    stored = [item for item in grus.stored.graph.initializer if item.name.startswith("layers.w3a4.")]
    packed = sum(len(item.raw_data) for item in stored if item.name.endswith("packed"))
    assert packed == 3 * HIDDEN * (INPUTS + HIDDEN) * 3 / 8


def test_a_gru_with_time_first_is_refused() -> None:
    with pytest.raises(UserError, match="must be batch_first"):
        ExportedGRU(nn.GRU(3, 4))
