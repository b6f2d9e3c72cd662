"""A Wav2Vec2 whose attention is on integers: kept by a checkpoint, counted, and refused where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qat.layers.attention import quantized_attentions
from qat.layers.coverage import count_macs, coverage
from qat.models.ctc import CTCModule
from qat.models.loading import load_module, save_module
from qat.recipe import Recipe
from qat.runtime.export import export_onnx
from qat.runtime.graph import count_nodes, optimised_graph
from qat.system.errors import UserError
from tests.conftest import build, noise
from tests.runtime.conftest import calibrate_

LENGTHS = torch.tensor([16_000, 9_000])


@torch.no_grad()
def quantized(**fields: object) -> CTCModule:
    """A tiny calibrated Wav2Vec2."""
    module = build("wav2vec2", Recipe.from_dict({"preset": "x", "attention_bits": 8, **fields})).eval()
    calibrate_(module, lambda: module(noise(2, 1.0), LENGTHS))
    return module


@torch.no_grad()
def test_switched_off_it_is_the_float_model() -> None:
    module = quantized()
    module.quantize(False)
    assert torch.equal(module(noise(2, 1.0), LENGTHS)[0], build("wav2vec2").eval()(noise(2, 1.0), LENGTHS)[0])


@torch.no_grad()
def test_a_checkpoint_keeps_its_bits(tmp_path: Path) -> None:
    module = quantized()
    save_module(module, tmp_path / "model.ckpt")
    restored = load_module(tmp_path / "model.ckpt").eval()
    assert len(list(quantized_attentions(restored))) == len(list(quantized_attentions(module))) > 0
    assert torch.equal(restored(noise(2, 1.0), LENGTHS)[0], module(noise(2, 1.0), LENGTHS)[0])


def test_its_products_count_as_quantized(tmp_path: Path) -> None:
    shares = []
    for bits in (0, 8):
        module = quantized(attention_bits=bits)
        shares.append(
            coverage(module, count_macs(module, lambda m=module: m(noise(1, 1.0), LENGTHS[:1])))["macs"]
        )
    assert shares[0] < shares[1] == 1.0
    export_onnx(module, tmp_path / "model.onnx", "integer")
    counts = count_nodes(optimised_graph(tmp_path / "model.onnx"))
    assert not [name for name in counts.float_matmul_without_weights if ".attention" in name]
    with pytest.raises(UserError, match="must be onnxruntime for a model of qat.attention_bits 8"):
        export_onnx(module, tmp_path / "model.qdq.onnx", "integer", file_format="qdq")
    assert not (tmp_path / "model.qdq.onnx").exists()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("crdnn", {}, "must be 0: CRDNNModule has no self-attention"),
        ("wav2vec2", {"target": "openvino"}, "must be 0 with qat.target openvino; it needs onnxruntime"),
        (
            "wav2vec2",
            {"activation_granularity": "dynamic"},
            "must be 0 with qat.activation_granularity dynamic",
        ),
        ("wav2vec2", {"attention_bits": 1}, "attention_bits: 1 must be 2 to 8"),
    ],
)
def test_what_cannot_have_it_says_so(kind: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(kind, Recipe.from_dict({"preset": "x", "attention_bits": 8, **fields}))
