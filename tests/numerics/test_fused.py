"""The kernels, in Triton's interpreter on CPU tensors, equal the plain path: bits, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from qat.layer_recipe import LayerRecipe
from qat.layers.blocks import fake_quantize_blocks
from qat.layers.frames import FrameQuantizer
from qat.numerics import fused
from qat.numerics.affine import fake_quantize
from qat.numerics.rounding import NoiseKey

pytest.importorskip("triton")
KEY = NoiseKey.of(3, 1, 4)
SHAPES = [(5, 37), (1,), (3, 1000), (4, 2, 700), (8,)]


def values(shape: tuple[int, ...] = (5, 37), spread: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * spread


def both(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], tuple[Tensor | None, ...]]
) -> list[tuple[Any, ...]]:
    """What `work` gives on the plain path and by the kernels."""
    plain = work()
    monkeypatch.setattr(fused, "FORCED", True)
    return [plain, work()]


def quantized(
    x: Tensor, scale: Tensor, zero: Tensor | None, low: int, high: int, **rest: Any
) -> tuple[Any, ...]:
    """Output, and gradients of `x` and of a learned scale."""
    leaf = x.detach().clone().requires_grad_()
    step = scale.detach().clone().requires_grad_(scale.requires_grad)
    out = fake_quantize(leaf, step, zero, low, high, **rest)
    up = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    out.backward(up.to(out.dtype))
    with torch.no_grad():
        again = fake_quantize(x, scale, zero, low, high, **rest)
        assert torch.equal(again.nan_to_num(99), out.nan_to_num(99))
    return out.detach(), leaf.grad, step.grad


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("noise", [None, KEY], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("zero", [None, 113])
def test_values_and_gradients_equal_the_plain_path(
    shape: tuple[int, ...], noise: NoiseKey | None, zero: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = (-127, 127) if zero is None else (0, 255)
    zeros = None if zero is None else torch.tensor([zero], dtype=torch.int32)
    x, scale = values(shape), torch.tensor([0.0117])
    plain, fast = both(monkeypatch, lambda: quantized(x, scale, zeros, low, high, noise=noise))
    assert torch.equal(fast[0], plain[0]) and torch.equal(fast[1], plain[1])
    assert x.numel() < 50 or 0 < int((fast[1] == 0).sum()) < x.numel()


@pytest.mark.parametrize("noise", [None, KEY], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("zero", [None, torch.int32, torch.float32])
@pytest.mark.parametrize("broadcast", [False, True])
def test_a_scale_for_each_row_equals_the_plain_path(
    noise: NoiseKey | None, zero: torch.dtype | None, broadcast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As weights have it, and as the frames of an LSTM's input, with a zero point that is a float."""
    x, scale = values((6, 123)), torch.linspace(0.01, 0.1, 6)
    zeros = None if zero is None else torch.arange(6).to(zero)
    axis: int | None = 0
    if broadcast:
        axis, scale, zeros = None, scale[:, None], None if zeros is None else zeros[:, None]
    assert fused.fits(x, scale, zeros, axis)
    for clips in (True, False):
        with monkeypatch.context() as patch:
            work = lambda clips=clips: quantized(  # noqa: E731
                x, scale, zeros, -7, 8, axis=axis, noise=noise, clips=clips
            )
            plain, fast = both(patch, work)
        assert torch.equal(fast[0], plain[0]) and torch.equal(fast[1], plain[1])


@pytest.mark.parametrize("noise", [None, KEY], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("zero", [None, 5])
@pytest.mark.parametrize("scale", [0.11, -0.11, 1e-12])
def test_a_learned_scale_equals_the_plain_path(
    noise: NoiseKey | None, zero: int | None, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = None if zero is None else torch.tensor([zero], dtype=torch.int32)
    x, step = values((9, 1000)), torch.tensor([scale], requires_grad=True)
    plain, fast = both(monkeypatch, lambda: quantized(x, step, zeros, -8, 7, noise=noise))
    assert torch.equal(fast[0], plain[0]) and torch.equal(fast[1], plain[1])
    torch.testing.assert_close(fast[2], plain[2], rtol=1e-4, atol=1e-5)  # sums in another order
    assert bool(plain[2] == 0) == (abs(scale) < 1e-9), "a scale at its floor moves no further"


def as_the_interpreter_stores(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 as a kernel stores it: Triton's interpreter cuts bfloat16 off, where a GPU rounds it."""
    if dtype == torch.bfloat16:
        x = x.contiguous().view(torch.int32).bitwise_and_(-(1 << 16)).view(torch.float32)
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_keeps_its_type(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, scale = values((7, 40)).to(dtype), torch.tensor([0.0117])
    plain = quantized(x.float(), scale, None, -127, 127, noise=KEY)
    monkeypatch.setattr(fused, "FORCED", True)
    fast = quantized(x, scale, None, -127, 127, noise=KEY)
    assert fast[0].dtype == fast[1].dtype == dtype
    assert torch.equal(fast[0], as_the_interpreter_stores(plain[0], dtype))
    assert torch.equal(fast[1], plain[1].to(dtype))


def test_under_autocast_the_result_is_what_the_product_reads_and_the_gradient_what_the_input_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, scale = values((7, 40)), torch.tensor([0.0117])
    with torch.autocast("cpu", torch.bfloat16):
        plain, fast = both(monkeypatch, lambda: quantized(x, scale, None, -127, 127))
    assert plain[0].dtype == torch.float32 and fast[0].dtype == torch.bfloat16
    assert torch.equal(fast[0], as_the_interpreter_stores(plain[0], torch.bfloat16))
    assert fast[1].dtype == torch.float32 and torch.equal(fast[1] == 0, plain[1] == 0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30, -0.0, 2.0**23 + 1])
def test_values_out_of_the_ordinary_equal_the_plain_path(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NaN must reach the loss, where a gradient scaler and a user see it."""
    x = torch.tensor([value, 0.5])
    for noise in (None, KEY):
        with monkeypatch.context() as patch:
            plain, fast = both(
                patch, lambda noise=noise: quantized(x, torch.tensor([0.1]), None, -127, 127, noise=noise)
            )
        assert torch.equal(fast[0].nan_to_num(99), plain[0].nan_to_num(99))
        assert torch.equal(fast[1].nan_to_num(99), plain[1].nan_to_num(99))


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "empty"])
def test_any_layout_equals_the_plain_path(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = values((6, 8, 10))
    x = {
        "transposed": whole.transpose(0, 2),
        "strided": whole[:, ::2],
        "expanded": whole[:1].expand(3, -1, -1),
        "empty": whole[:0],
    }[layout]
    work = lambda: quantized(x, torch.tensor([0.013]), None, -127, 127, noise=KEY)  # noqa: E731
    plain, fast = both(monkeypatch, work)
    assert torch.equal(fast[0], plain[0]) and torch.equal(fast[1], plain[1])


def test_what_the_kernels_do_not_take_goes_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    x, scale = values((3, 4, 5)), torch.linspace(0.05, 0.1, 4)
    assert not fused.fits(x, scale, None, 1)
    plain, fast = both(monkeypatch, lambda: quantized(x, scale, None, -7, 7, axis=1))
    assert torch.equal(fast[0], plain[0]) and torch.equal(fast[1], plain[1])


def test_the_mask_takes_one_bit_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "FORCED", True)
    x, saved = values((8, 100)).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda item: saved.append(item), lambda item: item):
        fake_quantize(x, torch.tensor([0.1]), None, -7, 7)
    assert [(item.dtype, item.numel()) for item in saved] == [(torch.uint8, 100)]


def test_a_range_that_covers_the_values_saves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "FORCED", True)
    x, saved = values((8, 100)).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda item: saved.append(item), lambda item: item):
        fake_quantize(x, torch.tensor([1.0]), None, -7, 7, clips=False)
    assert not saved


def test_stochastic_rounding_by_the_kernels_is_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "FORCED", True)
    count = 40_000
    for fraction in (0.03, 0.5, 0.81):
        x = torch.full((count,), 3 + fraction)
        out = fake_quantize(x, torch.ones(1), None, -127, 127, noise=NoiseKey.of(round(100 * fraction)))
        assert set(out.unique().tolist()) == {3.0, 4.0}
        sigma = (fraction * (1 - fraction) / count) ** 0.5
        assert abs(float(out.double().mean()) - 3 - fraction) < 4 * sigma + 2**-16


@pytest.mark.parametrize("levels", [3, 15, 255])
@pytest.mark.parametrize("noise", [None, KEY], ids=["nearest", "stochastic"])
def test_frames_equal_the_plain_path(
    levels: int, noise: NoiseKey | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = levels.bit_length()
    rounding: Any = "nearest" if noise is None else "stochastic"
    quantizer = FrameQuantizer(LayerRecipe(activation_bits=bits, rounding=rounding)).train()
    x = torch.cat([values((2, 5, 1500)), values((2, 5, 1500)).abs() * 1e-3, torch.zeros(2, 1, 1500)], dim=1)
    for rows in (x, x[..., :1], -x.abs(), x.transpose(0, 1)):
        with monkeypatch.context() as patch:
            plain, fast = both(patch, lambda rows=rows: gradient_of(quantizer.fake_quantize, rows))
        assert torch.equal(fast[0], plain[0]) and torch.equal(fast[1], plain[1])


@pytest.mark.parametrize("size", [16, 32, 256])
@pytest.mark.parametrize("columns", [16, 40, 700])
def test_blocks_equal_the_plain_path(size: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat([values((3, 4, columns)), torch.zeros(3, 1, columns)], dim=1)
    for rows in (x, x.transpose(0, 1), x[:, :, ::2]):
        with monkeypatch.context() as patch:
            work = partial(fake_quantize_blocks, size=size)
            plain, fast = both(patch, partial(gradient_of, work, rows))
        assert torch.equal(fast[0], plain[0]) and torch.equal(fast[1], plain[1])


def gradient_of(work: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Output and gradient of `x`; the output without a gradient is the same."""
    leaf = x.detach().clone().requires_grad_()
    out = work(leaf)
    out.backward(torch.arange(out.numel(), dtype=torch.float32).view(out.shape))
    with torch.no_grad():
        assert torch.equal(work(x), out)
    return out.detach(), leaf.grad
