"""Attention and norms as ONNX Runtime computes them fastest, with and without padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Attention

from qat.layers.masked_norm import MaskedGroupNorm
from qat.layers.masking import frame_mask
from qat.runtime.export import trace
from qat.runtime.fused import fuse_, keep_norms_apart_
from qat.runtime.graph import all_nodes, optimised_graph
from qat.runtime.packing import name_nodes_

WIDTH, HEADS = 24, 3


class Attending(nn.Module):
    """Self-attention on valid frames."""

    def __init__(self) -> None:
        super().__init__()
        config = Wav2Vec2Config(hidden_size=WIDTH, num_attention_heads=HEADS, attn_implementation="sdpa")
        self.attention = Wav2Vec2Attention(WIDTH, HEADS, config=config)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """`(B, T, F)`."""
        mask = frame_mask(frames, x)
        bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, torch.finfo(x.dtype).min)
        out: Tensor = self.attention(x, attention_mask=bias[:, None, None, :])[0]
        return out


class Normalising(nn.Module):
    """A masked GroupNorm on `(B, T, F)`."""

    def __init__(self) -> None:
        super().__init__()
        plain = nn.GroupNorm(WIDTH, WIDTH)
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
        self.norm = MaskedGroupNorm.of(plain)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """`(B, T, F)`."""
        return self.norm(x.transpose(1, 2), frames).transpose(1, 2)


class Skipping(nn.Module):
    """A residual in front of a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """`(B, T, F)`."""
        return self.norm(x + torch.tanh(x)) * frame_mask(frames, x)[..., None]


def exported(
    module: nn.Module, path: Path, fuse: Callable[[nn.Module], None] = fuse_
) -> ort.InferenceSession:
    """The file of a module."""
    fuse(module)
    inputs = {"x": torch.zeros(2, 9, WIDTH), "frames": torch.tensor([9, 5])}
    model = trace(module, inputs, ["y"], axes={"x": ("batch", "time"), "frames": ("batch",)})
    name_nodes_(model, [])
    keep_norms_apart_(model)
    ir.save(model, path)
    onnx.checker.check_model(str(path))
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("build", [Attending, Normalising, Skipping])
def test_file_computes_what_the_module_does(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = build().eval()
    cases = [([40], 40), ([40, 40], 40), ([40, 17], 40), ([3, 7, 30], 30), ([1], 1)]
    generator = torch.Generator().manual_seed(1)
    given = [(torch.randn(len(rows), time, WIDTH, generator=generator), rows) for rows, time in cases]
    with torch.no_grad():
        expected = [module(x, torch.tensor(rows)) for x, rows in given]
    session = exported(module, tmp_path / "file.onnx")
    for (x, rows), right in zip(given, expected, strict=True):
        (found,) = session.run(None, {"x": x.numpy(), "frames": torch.tensor(rows).numpy()})
        for row, length in enumerate(rows):
            torch.testing.assert_close(
                torch.from_numpy(found[row, :length]), right[row, :length], atol=2e-5, rtol=1e-4
            )


def test_nothing_is_masked_where_nothing_is_padded(tmp_path: Path) -> None:
    """One utterance takes the branch whose attention has no mask, and whose norm is one node."""

    def inputs_of(name: str, op_type: str) -> dict[str, int]:
        nodes = all_nodes(onnx.load(tmp_path / name).graph)
        return {node.name.split("/")[1]: len(node.input) for node in nodes if node.op_type == op_type}

    torch.manual_seed(0)
    exported(Attending(), tmp_path / "attention.onnx")
    exported(Normalising(), tmp_path / "norm.onnx")
    assert inputs_of("attention.onnx", "MultiHeadAttention") == {"whole": 3, "padded": 6}
    assert inputs_of("norm.onnx", "InstanceNormalization") == {"whole": 3}


def test_no_layer_norm_is_fused_with_an_addition(tmp_path: Path) -> None:
    exported(Skipping(), tmp_path / "file.onnx")
    operators = [node.op_type for node in all_nodes(optimised_graph(tmp_path / "file.onnx").graph)]
    assert "LayerNormalization" in operators and "SkipLayerNormalization" not in operators


def test_training_keeps_its_attention() -> None:
    """Only the copy that is exported changes; models of no Transformers class are left alone."""
    module = Attending()
    plain: Any = nn.Sequential(nn.Linear(2, 2))
    fuse_(plain)
    x = torch.randn(1, 4, WIDTH)
    before = module(x, torch.tensor([4]))
    fuse_(Attending())
    assert torch.equal(module(x, torch.tensor([4])), before)
