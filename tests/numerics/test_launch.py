"""A kernel is found again where, and only where, Triton would run the same code."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from qat.numerics import launch as launching
from qat.numerics.launch import launch_found, traits


class Compiled:
    """What Triton returns of a launch."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args: self.calls.append(("found", grid, args))


class Kernel:
    """A `triton.jit` function that notes how it was called."""

    arg_names = ("x", "count", "low", "STOCHASTIC", "BLOCK")

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getitem__(self, grid: Any) -> Any:
        def run(*args: Any, **constants: Any) -> Compiled:
            self.calls.append(("searched", grid, args, constants))
            return Compiled(self.calls)

        return run


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "FOUND", {})


def test_the_second_launch_is_found_with_constants_in_the_kernels_order() -> None:
    kernel, x = Kernel(), torch.zeros(32)
    constants = {"BLOCK": 2048, "num_warps": 8, "STOCHASTIC": True}
    launch_found(kernel, 3, 0, (x, 32, -8.0), constants)
    launch_found(kernel, 5, 0, (x, 64, -4.0), constants)
    assert kernel.calls == [
        ("searched", (3,), (x, 32, -8.0), {**constants, "enable_fp_fusion": False}),
        ("found", (5, 1, 1), (x, 64, -4.0, True, 2048)),
    ]


def test_whatever_asks_for_other_code_is_searched() -> None:
    kernel, x = Kernel(), torch.zeros(32)
    constants = {"STOCHASTIC": True, "BLOCK": 2048, "num_warps": 8}
    launch_found(kernel, 1, 0, (x, 32, 0.0), constants)
    for device, args, changed in (
        (1, (x, 32, 0.0), {}),
        (0, (x.bfloat16(), 32, 0.0), {}),
        (0, (x[1:], 32, 0.0), {}),
        (0, (x, 33, 0.0), {}),
        (0, (x, 1, 0.0), {}),
        (0, (x, 2**31, 0.0), {}),
        (0, (x, 32, 0.0), {"STOCHASTIC": False}),
        (0, (x, 32, 0.0), {"num_warps": 4}),
    ):
        launch_found(kernel, 1, device, args, {**constants, **changed})
        assert kernel.calls[-1][0] == "searched", (device, args, changed)
    launch_found(Kernel(), 1, 0, (x, 32, 0.0), constants)
    launch_found(kernel, 1, 0, (x, 48, 1.0), constants)
    assert kernel.calls[-1][0] == "found"


def test_equal_traits_are_equal_to_triton() -> None:
    """Triton's own code says what it compiles for."""
    compiler = pytest.importorskip("triton.backends.nvidia.compiler")
    native = pytest.importorskip("triton._C.libtriton").native_specialize_impl
    words = torch.zeros(64)
    values = [
        *(0, 1, 2, 15, 16, 17, 4096, 2**31 - 1, 2**31, 2**31 - 16, 2**32, -1, -16, -(2**31), -(2**31) - 1),
        *(0.0, 1.0, 16.0, -0.5, words, words[1:], words[4:], words.bfloat16(), words.bfloat16()[1:]),
        *(words.to(torch.uint8)[3:], words.to(torch.int64), words[::2]),
    ]

    def specialized(value: Any, specialize: bool) -> Any:
        return native(compiler.CUDABackend, value, False, specialize, specialize)

    for first, second in itertools.combinations(values, 2):
        if traits(first) == traits(second):
            for specialize in (True, False):
                assert specialized(first, specialize) == specialized(second, specialize), (first, second)
    assert traits(words) != traits(words[1:]) and traits(32) != traits(33)
