"""A file of standard operators computes what the module does, on each engine, layer class by layer class."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto
from torch import Tensor

from qat.models.ctc import CTCModule
from qat.runtime.export import export_onnx, trace
from qat.runtime.formats import Runner
from qat.runtime.graph import count_nodes, optimised_graph
from qat.runtime.layers import replace_layers_
from qat.runtime.openvino_engine import OpenVinoEngine
from qat.runtime.openvino_nodes import count_compiled_nodes
from qat.runtime.packing import name_nodes_
from qat.runtime.portable import make_portable_
from qat.runtime.session import Session, open_engine
from qat.system.errors import UserError
from tests.conftest import noise
from tests.runtime.conftest import FEATURES, Exported, ExportedZoo, Zoo, layer_zoo, quantized

NAMES = [name for name in layer_zoo() if not name.startswith("linear_blocks")]
ENGINES = ("onnxruntime", "openvino")
# an LSTM's state has 8-bit levels in the module and none in the file: an eighth of a step at each of few frames
STATE = 0.02
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def portable(zoo: ExportedZoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All layers that a portable file may hold."""
    exported = Zoo({name: copy.deepcopy(zoo.reference.layers[name]) for name in NAMES}).eval()
    with torch.no_grad():
        replace_layers_(exported, "integer")
    x = torch.randn(2, 20, FEATURES, generator=torch.Generator().manual_seed(0))
    model = trace(exported, {"x": x, "frames": torch.tensor([20, 20])}, NAMES)
    name_nodes_(model, [], portable=True)
    make_portable_(model)
    path = tmp_path_factory.mktemp("portable") / "zoo.onnx"
    ir.save(model, path)
    return path


@pytest.fixture(scope="module")
def pairs(zoo: ExportedZoo, portable: Path) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    """Engine -> layer -> (output of the module, output of the file)."""
    x = torch.randn(2, 23, FEATURES, generator=torch.Generator().manual_seed(5))
    frames = torch.tensor([23, 23])
    with torch.no_grad():
        every = dict(zip(zoo.reference.layers, zoo.reference(x, frames), strict=True))
    engines: dict[str, Any] = {
        "onnxruntime": open_engine(portable, 1),
        "openvino": OpenVinoEngine(portable, 1),
    }
    found = {}
    for name, engine in engines.items():
        outputs = engine.run(NAMES, {"x": x.numpy(), "frames": frames.numpy()})
        found[name] = {
            layer: (every[layer], torch.from_numpy(y)) for layer, y in zip(NAMES, outputs, strict=True)
        }
    return found


def step_of(zoo: ExportedZoo, name: str) -> float:
    """By how much one level of an output may differ."""
    scale = getattr(getattr(zoo.reference.layers[name], "output_quantizer", None), "scale", None)
    return STATE if name.startswith("lstm") else 0.0 if scale is None else float(scale)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_the_file_computes_what_the_module_does(
    zoo: ExportedZoo, pairs: dict[str, dict[str, tuple[Tensor, Tensor]]], name: str, engine: str
) -> None:
    expected, actual = pairs[engine][name]
    difference = (expected - actual).abs()
    assert difference.max() <= step_of(zoo, name) * 1.001 + ROUNDING
    if not name.startswith("lstm"):
        assert (difference > ROUNDING).float().mean() < 0.02


def test_every_operator_is_a_standard_one(portable: Path) -> None:
    model = onnx.load(str(portable))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 21)]


def test_weights_of_up_to_four_bits_are_int4(portable: Path) -> None:
    types = {
        item.name: item.data_type for item in onnx.load(str(portable)).graph.initializer if len(item.dims) > 1
    }
    for name, bits in (
        ("linear_w4_integer", 4),
        ("linear_w3", 3),
        ("linear_w2", 2),
        ("linear_w4a4", 4),
        ("conv2d", 8),
    ):
        own = [kind for key, kind in types.items() if key.startswith(f"layers.{name}.")]
        assert own == [TensorProto.INT4 if bits <= 4 else TensorProto.INT8], name


@pytest.mark.parametrize("kind", ["crdnn", "wav2vec2"])
def test_four_bit_weights_are_multiplied_as_integers(kind: str, tmp_path: Path) -> None:
    eight, four = (
        export_onnx(
            quantized(kind, weight_bits=bits), tmp_path / f"{bits}.onnx", "integer", file_format="qdq"
        ).path
        for bits in (8, 4)
    )
    by_bits = [count_nodes(optimised_graph(path)) for path in (four, eight)]
    kinds = [sorted(counts.integer.values()) for counts in by_bits]
    assert kinds[0] == kinds[1] and len(kinds[0]) > 5
    assert by_bits[0].float_compute == by_bits[1].float_compute
    on_openvino = [count_compiled_nodes(OpenVinoEngine(path, 1)) for path in (four, eight)]
    assert len(on_openvino[0].integer) == len(on_openvino[1].integer) > 5


def test_a_kernel_of_one_engine_alone_is_refused(tmp_path: Path) -> None:
    module = quantized("crdnn", weight_bits=4, four_bit_linear="matmul_nbits")
    with pytest.raises(UserError, match="must have --qat.four_bit_linear integer"):
        export_onnx(module, tmp_path / "x.onnx", "integer", file_format="qdq")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module", params=["crdnn", "wav2vec2"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[CTCModule, Path]:
    """A tiny model and its portable file."""
    exported: Exported = request.getfixturevalue(request.param)
    path = tmp_path_factory.mktemp("whole") / "model.onnx"
    export_onnx(exported.module, path, "integer", "abc", file_format="qdq")
    return exported.module, path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_emits_what_its_module_does(whole: tuple[CTCModule, Path], engine: Any) -> None:
    module, path = whole
    onnx.checker.check_model(onnx.load(str(path)), full_check=True)
    session = Session(path, runner=Runner(engine))
    assert session.metadata["checkpoint_sha256"] == "abc" and session.vocabulary == list(module.vocabulary)
    signal = noise(1, 1.3)
    with torch.no_grad():
        logits, frames = module(signal, torch.tensor([signal.shape[1]]))
    found = session.logits(signal[0].numpy())
    assert found.shape == logits[0, : int(frames[0])].shape
    np.testing.assert_allclose(found, logits[0, : int(frames[0])].numpy(), atol=0.02)


def test_both_engines_multiply_integers(whole: tuple[CTCModule, Path]) -> None:
    module, path = whole
    by_engine = [count_nodes(optimised_graph(path)), count_compiled_nodes(OpenVinoEngine(path, 1))]
    for counts in by_engine:
        assert len(counts.integer) == len(by_engine[0].integer) > 5
        assert counts.integer
        recurrent = set(counts.float_compute.values())
        assert recurrent <= {"LSTM", "RNNSeq", "LSTMSequence"}
        assert bool(recurrent) == (type(module).__name__ == "CRDNNModule")
