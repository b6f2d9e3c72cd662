"""Every kind of cell in one file: levels as the fake-quantized layers, on `MatMulIntegerToFloat`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.step_lstm import StepLSTM
from qat.layers.swap import quantize_layer
from qat.runtime.cells import ExportedGRUCell, ExportedStepLSTM
from qat.runtime.export import trace
from qat.runtime.graph import count_nodes, optimised_graph
from qat.runtime.layers import exported_layer
from qat.runtime.packing import name_nodes_, pack_low_bits_
from tests.runtime.conftest import SAFE, calibrate_

INPUTS, HIDDEN, WORDS = 12, 16, 40
BUILD: dict[str, Any] = {
    "gru_cell": lambda: nn.GRUCell(INPUTS, HIDDEN),
    "lstm_cell": lambda: nn.LSTMCell(INPUTS, HIDDEN, bias=False),
    "step_lstm": lambda: StepLSTM(INPUTS, HIDDEN, 2),
}
FORMS: dict[str, dict[str, Any]] = {
    "one_range": {},
    "rows": {"activation_granularity": "frame"},
    "w4a4": {"weight_bits": 4, "activation_bits": 4},
    "w3": {"weight_bits": 3, "activation_signed": True},
    "weights_only": {"activation_bits": None, "weight_bits": 4},
    "activations_only": {"weight_bits": None},
}
NAMES = [
    *("gru_cell_one_range", "gru_cell_w3", "gru_cell_weights_only", "gru_cell_activations_only"),
    *("lstm_cell_w4a4", "step_lstm_rows"),
]
PLAIN = ["gru_cell", "step_lstm"]
INTEGER = [name for name in NAMES if not name.endswith("_only")]
ROUNDING = 3e-6  # sigmoid and tanh are computed otherwise
STEP = 0.02  # a level of the second step's state, which then may round the other way


def one_step(layer: nn.Module, x: Tensor) -> Tensor:
    """Next states side by side: input `x[:, 0]`, hidden state `x[:, 1]` and cell state `x[:, 2]`."""
    rows, hidden, cell = x[:, 0, :INPUTS], torch.tanh(x[:, 1]), x[:, 2]
    if isinstance(layer, StepLSTM | ExportedStepLSTM):
        state = torch.stack([hidden, -hidden]), torch.stack([cell, -cell])
        output, (hidden, cell) = layer.step(rows, state)
        return torch.cat([output, *hidden.unbind(0), *cell.unbind(0)], dim=1)
    if isinstance(layer, nn.GRUCell | ExportedGRUCell):
        return layer(rows, hidden)
    return torch.cat(layer(rows, (hidden, cell)), dim=1)


class Steps(nn.Module):
    """All layers on one input."""

    def __init__(self, layers: dict[str, nn.Module], embeddings: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers, self.embeddings = nn.ModuleDict(layers), nn.ModuleDict(embeddings)

    def forward(self, x: Tensor, words: Tensor) -> list[Tensor]:
        return [
            *(one_step(layer, x) for layer in self.layers.values()),
            *(layer(words) for layer in self.embeddings.values()),
        ]


@dataclass
class Exported:
    """The layers and their file."""

    reference: Steps
    engine: ort.InferenceSession
    stored: onnx.ModelProto
    optimised: onnx.ModelProto

    def both(self, rows: int, seed: int = 5) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> (output of the layer, output of the file)."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, 3, HIDDEN, generator=generator)
        words = torch.randint(WORDS, (rows, 3), generator=generator)
        with torch.no_grad():
            expected = self.reference(x, words)
        actual = self.engine.run(None, {"x": x.numpy(), "words": words.numpy()})
        names = [*self.reference.layers, *self.reference.embeddings]
        pairs = zip(expected, map(torch.from_numpy, actual), strict=True)
        return dict(zip(names, pairs, strict=True))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """All layers in one file, plain ones too."""
    torch.manual_seed(2)
    layers: dict[str, nn.Module] = {f"{kind}_plain": BUILD[kind]() for kind in PLAIN}
    for name in NAMES:
        kind = next(kind for kind in BUILD if name.startswith(kind))
        fields = FORMS[name.removeprefix(f"{kind}_")]
        layers[name] = quantize_layer(BUILD[kind](), LayerRecipe(**{**SAFE, **fields}))
    embeddings: dict[str, nn.Module] = {
        f"embedding_{bits}": quantize_layer(
            nn.Embedding(WORDS, INPUTS), LayerRecipe(weight_bits=bits, **SAFE)
        )
        for bits in (2, 3, 4, 8)
    }
    reference = Steps(layers, embeddings).eval()
    x, words = torch.randn(100, 3, HIDDEN), torch.zeros(100, 2, dtype=torch.int64)
    calibrate_(reference, lambda: reference(x, words))
    with torch.no_grad():
        made = [
            {key: exported_layer(item, "integer") for key, item in group.items()}
            for group in (layers, embeddings)
        ]
        model = trace(Steps(*made), {"x": x[:3], "words": words[:3]}, [*layers, *embeddings])
    name_nodes_(model, [])
    pack_low_bits_(model)
    path = tmp_path_factory.mktemp("cells") / "cells.onnx"
    ir.save(model, path)
    engine = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return Exported(reference, engine, onnx.load(str(path)), optimised_graph(path))


@pytest.mark.parametrize("name", [*NAMES, *(f"{kind}_plain" for kind in PLAIN)])
@pytest.mark.parametrize("rows", [1, 5])
def test_the_file_computes_what_the_layer_does(steps: Exported, name: str, rows: int) -> None:
    expected, actual = steps.both(rows)[name]
    assert expected.shape == actual.shape
    torch.testing.assert_close(expected, actual, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("name", INTEGER)
def test_a_row_of_a_beam_is_that_row_alone_in_the_file_too(steps: Exported, name: str) -> None:
    x, words = torch.randn(7, 3, HIDDEN).numpy(), torch.zeros(7, 2, dtype=torch.int64).numpy()
    place = [*steps.reference.layers, *steps.reference.embeddings].index(name)
    outputs = [output.name for output in steps.engine.get_outputs()][place : place + 1]
    together = steps.engine.run(outputs, {"x": x, "words": words})[0]
    for row in range(7):
        feed = {"x": x[row : row + 1], "words": words[row : row + 1]}
        alone = steps.engine.run(outputs, feed)[0]
        assert (together[row : row + 1] == alone).all()


@pytest.mark.parametrize("name", INTEGER)
def test_both_products_of_each_layer_run_on_integers(steps: Exported, name: str) -> None:
    counts = count_nodes(steps.optimised)
    inside = (f"layers.{name}/", f"layers.{name}.")
    found = [kind for node, kind in counts.integer.items() if node.startswith(inside)]
    assert found == ["MatMulIntegerToFloat"] * (4 if name.startswith("step") else 2)
    assert not [node for node in counts.float_compute if node.startswith(inside)]


@pytest.mark.parametrize(("bits", "kind"), [(2, "UINT8"), (3, "UINT8"), (4, "INT4"), (8, "INT8")])
def test_embeddings_are_equal_to_the_last_bit_and_stored_in_their_bits(
    steps: Exported, bits: int, kind: str
) -> None:
    expected, actual = steps.both(5)[f"embedding_{bits}"]
    assert torch.equal(expected, actual)
    assert packed_bytes(steps, f"embeddings.embedding_{bits}.", kind) == WORDS * INPUTS * bits / 8


def test_weights_of_few_bits_are_packed(steps: Exported) -> None:
    assert packed_bytes(steps, "layers.gru_cell_w3.", "UINT8") == 3 * HIDDEN * (INPUTS + HIDDEN) * 3 / 8
    assert packed_bytes(steps, "layers.lstm_cell_w4a4.", "INT4") == 4 * HIDDEN * (INPUTS + HIDDEN) / 2


def packed_bytes(steps: Exported, prefix: str, kind: str) -> int:
    """Bytes of the stored matrices of one type."""
    stored = [item for item in steps.stored.graph.initializer if item.name.startswith(prefix)]
    matrices = [item for item in stored if len(item.dims) > 1]
    return sum(len(item.raw_data) for item in matrices if item.data_type == getattr(onnx.TensorProto, kind))
