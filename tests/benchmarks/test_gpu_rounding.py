"""The comparison of a GPU's rounding sees what differs, and here nothing does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import gpu_rounding
from benchmarks.gpu_rounding import compare_all
from qat.numerics import fused
from tests.pretend_gpu import PretendGPU


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton's interpreter computes in a second."""
    monkeypatch.setattr(gpu_rounding, "SHAPE", (2, 5, 24))
    monkeypatch.setattr(gpu_rounding, "WIDTHS", (10, 6))
    monkeypatch.setattr(gpu_rounding, "NOISE_SHAPE", (10, 31))
    chosen = ("stochastic, 3 bits", "learned", "per frame")
    monkeypatch.setattr(gpu_rounding, "RECIPES", {name: gpu_rounding.RECIPES[name] for name in chosen})


def test_the_kernels_give_what_the_plain_path_gives() -> None:
    pytest.importorskip("triton")
    equal, values = compare_all("cpu")
    assert equal and values["different"] == "" and values["compared"] > 40
    assert values["scale_gradient_relative_difference"] < 1e-5
    assert not fused.FORCED


def test_a_kernel_that_rounds_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = gpu_rounding.fake_quantize

    def wrong(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = plain(*args, **kwargs)
        return out + 1e-6 if fused.FORCED else out

    monkeypatch.setattr(gpu_rounding, "RECIPES", {})
    monkeypatch.setattr(gpu_rounding, "fake_quantize", wrong)
    equal, values = compare_all("cpu")
    assert not equal and "torch.float32, 1 scales, nearest" in values["different"]


def test_without_the_interpreter_a_cpu_cannot_stand_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET: must be 1"):
        compare_all("cpu")


def test_on_a_gpu_everything_that_is_compared_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "applies", lambda x: False)  # Triton sees through the pretence
    plain = gpu_rounding.outputs("cpu")
    with PretendGPU():
        found = {name: value.cpu() for name, value in gpu_rounding.outputs("cuda").items()}
    assert list(found) == list(plain)
    assert all(torch.equal(found[name], plain[name]) for name in plain)
