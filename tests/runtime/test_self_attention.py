"""Self-attention on integers in a file: the module's own values, and nothing of it in float."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from qat.layer_recipe import LayerRecipe
from qat.layers.attention import quantize_attention_
from qat.runtime.fused import fuse_
from qat.runtime.graph import all_nodes
from qat.runtime.layers import replace_layers_
from tests.runtime.conftest import calibrate_
from tests.runtime.test_fused import WIDTH, Attending, exported


def attending(x: Tensor, bits: int, reduce_range: bool = False) -> Attending:
    """Calibrated on `x`, switched on."""
    torch.manual_seed(0)
    module = Attending().eval()
    recipe = LayerRecipe(attention_bits=bits, reduce_range=reduce_range)
    assert quantize_attention_(module, recipe) == ["attention.products"]
    calibrate_(module, lambda: module(x, torch.tensor([x.shape[1]] * len(x))))
    return module


@pytest.mark.parametrize(("bits", "reduce_range"), [(8, False), (8, True), (4, False), (2, False)])
@torch.no_grad()
def test_file_computes_what_the_module_does(bits: int, reduce_range: bool, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    module = attending(torch.randn(4, 40, WIDTH, generator=generator), bits, reduce_range)
    cases = [([40], 40), ([40, 40], 40), ([40, 17], 40), ([3, 7, 30], 30), ([1], 1)]
    given = [(2 * torch.randn(len(rows), time, WIDTH, generator=generator), rows) for rows, time in cases]
    expected = [module(x, torch.tensor(rows)) for x, rows in given]
    replace_layers_(module, "integer")
    session = exported(module, tmp_path / "file.onnx")
    for (x, rows), right in zip(given, expected, strict=True):
        (found,) = session.run(None, {"x": x.numpy(), "frames": torch.tensor(rows).numpy()})
        for row, length in enumerate(rows):
            difference = (torch.from_numpy(found[row, :length]) - right[row, :length]).abs()
            # a value on the edge of two levels may fall to either side
            assert float((difference > 2e-5).float().mean()) < 0.02, float(difference.max())
    operators = [node.op_type for node in all_nodes(onnx.load(tmp_path / "file.onnx").graph)]
    assert operators.count("MatMulIntegerToFloat") == 4 and "MultiHeadAttention" not in operators


def test_a_float_file_has_the_plain_attention(tmp_path: Path) -> None:
    module = attending(torch.randn(2, 20, WIDTH), 8)
    replace_layers_(module, "float")
    exported(module, tmp_path / "file.onnx", fuse_)
    operators = [node.op_type for node in all_nodes(onnx.load(tmp_path / "file.onnx").graph)]
    assert operators.count("MultiHeadAttention") == 2 and "MatMulIntegerToFloat" not in operators
