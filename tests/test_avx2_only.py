"""What `benchmarks.avx2_only` hides is hidden from ONNX Runtime and from PyTorch."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.avx2_only import prepare
from tests.conftest import ROOT

TOOLS = ("cc", "objdump", "readelf")
PROBE = """
import numpy as np, onnx, onnxruntime, torch
from onnx import TensorProto, helper

node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
a = helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 64])
c = helper.make_tensor_value_info("c", TensorProto.INT32, [1, 64])
weight = onnx.numpy_helper.from_array(np.full((64, 64), 127, np.int8), "b")
graph = helper.make_graph([node], "graph", [a], [c], [weight])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
(product,) = session.run(None, {"a": np.full((1, 64), 255, np.uint8)})
print(product[0, 0], torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64") or not all(map(shutil.which, TOOLS)),
    reason="needs Linux on x86-64 with a compiler and binutils",
)
def test_products_saturate_as_they_do_without_vnni(tmp_path: Path) -> None:
    """AVX2 adds pairs of u8 x s8 in int16: 2 x 255 x 127 becomes 32,767, which no newer instruction does."""
    found = subprocess.run(
        [sys.executable, "-c", PROBE], env=prepare(tmp_path), cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    product, capability = found.stdout.split()
    assert int(product) == 64 // 2 * 32_767 and capability == "AVX2"
