"""Linear layers on 4-bit weights: activations in blocks with scales of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.layers.blocks import (
    BLOCK_SIZES,
    BlockQuantizer,
    block_levels,
    block_linear,
    block_size,
    blocks_of,
    fake_quantize_blocks,
)
from qat.layers.linear import QuantLinear
from qat.layers.state import calibrate_weights_, set_enabled_
from qat.layers.swap import swap_
from qat.recipe import Recipe


@pytest.mark.parametrize("columns", [1, 7, 16, 100, 144, 300, 576, 1024])
def test_the_block_size_stores_a_row_in_the_fewest_bytes(columns: int) -> None:
    def stored(size: int) -> int:
        blocks = -(-columns // size)
        return blocks * (size // 2) + 4 * blocks

    assert stored(block_size(columns)) == min(stored(size) for size in BLOCK_SIZES)


def test_blocks_hold_the_row_and_zeros() -> None:
    x = torch.randn(2, 3, 21)
    cut = blocks_of(x, 16)
    assert cut.shape == (2, 3, 2, 16)
    assert torch.equal(cut.flatten(-2)[..., :21], x) and not bool(cut.flatten(-2)[..., 21:].any())


def test_levels_are_whole_and_reach_the_end_of_the_range() -> None:
    levels, scale = block_levels(torch.randn(5, 32), 16)
    assert torch.equal(levels, levels.round())
    assert torch.equal(levels.abs().amax(-1), torch.full((5, 2), 127.0))
    assert bool((scale > 0).all())


def test_a_silent_block_stays_silent() -> None:
    x = torch.zeros(2, 32)
    assert torch.equal(fake_quantize_blocks(x, 16), x)
    assert bool(torch.isfinite(block_linear(x, torch.ones(3, 32), torch.ones(3), 16)).all())


def test_fake_quantization_is_off_by_half_a_step_at_most_and_passes_the_gradient() -> None:
    x = torch.randn(4, 40, requires_grad=True)
    out = fake_quantize_blocks(x, 16)
    step = blocks_of(x.detach(), 16).abs().amax(-1, keepdim=True) / 127
    gap = blocks_of((out - x).detach().abs(), 16)
    assert bool((gap <= 0.5 * step + 1e-6).all())
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad, torch.ones_like(x))


def test_kernel_and_fake_quantization_agree() -> None:
    """Sums in blocks equal the product of the fake-quantized sides up to float rounding."""
    x, weight, scale = torch.randn(6, 50), torch.randint(-7, 8, (5, 50)).float(), torch.rand(5) + 0.1
    expected = fake_quantize_blocks(x, 32) @ (weight * scale[:, None]).T
    torch.testing.assert_close(block_linear(x, weight, scale, 32), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "packs"),
    [
        ({"weight_bits": 4, "four_bit_linear": "matmul_nbits"}, True),
        ({"weight_bits": 4}, False),
        ({"weight_bits": 4, "four_bit_linear": "integer"}, False),
        ({"weight_bits": 4, "activation_bits": 4, "four_bit_linear": "matmul_nbits"}, False),
        ({"weight_bits": 4, "activation_signed": True, "four_bit_linear": "matmul_nbits"}, False),
        ({"weight_bits": 3, "four_bit_linear": "matmul_nbits"}, False),
        ({"weight_bits": 8, "four_bit_linear": "matmul_nbits"}, False),
    ],
)
def test_which_linear_layers_run_in_blocks(recipe: dict[str, object], packs: bool) -> None:
    model = nn.Sequential(nn.Linear(20, 5))
    swap_(model, Recipe(preset="x", **recipe))  # type: ignore[arg-type]
    layer = model[0]
    assert isinstance(layer, QuantLinear)
    assert isinstance(layer.input_quantizer, BlockQuantizer) == packs
    assert not layer.input_quantizer.is_enabled
    if packs:
        x = torch.randn(3, 20)
        plain = layer.to_float()(x)
        assert torch.equal(layer(x), plain)
        calibrate_weights_(model)
        set_enabled_(model, True)
        assert layer.input_quantizer.size == 32 and not torch.equal(layer(x), plain)
        training = layer.train()(x)
        with torch.no_grad():
            torch.testing.assert_close(layer.eval()(x), training, atol=1e-5, rtol=1e-5)
