"""Both kernels of 4-bit linear layers are timed on the file that each of them makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from qat.runtime import four_bit
from qat.runtime.four_bit import KERNELS, Kernel, faster, kernel_times, write_layers
from qat.runtime.session import open_engine


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that take no time."""
    monkeypatch.setattr(four_bit, "WIDTHS", ((32, 64), (64, 32)))
    monkeypatch.setattr(four_bit, "FRAMES", 5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_file_runs_on_its_kernel_alone(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "layers.onnx"
    write_layers(kernel, path)
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert kinds.count("MatMulNBits") == (2 if kernel == "matmul_nbits" else 0)
    assert kinds.count("MatMulIntegerToFloat") == (0 if kernel == "matmul_nbits" else 2)
    (y,) = open_engine(path, 1).run(None, {"x": np.ones((1, 5, 32), np.float32)})
    assert y.shape == (1, 5, 32) and np.isfinite(y).all()


def test_both_are_timed_and_the_faster_one_is_taken() -> None:
    times = kernel_times()
    assert set(times) == set(KERNELS) and all(0 < ms < 1e4 for ms in times.values())
    assert times[faster(times)] == min(times.values())
