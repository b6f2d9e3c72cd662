"""The recipe of one layer: its levels follow from its bits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qat.layer_recipe import LayerRecipe


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_follow_the_bits(bits: int) -> None:
    layer = LayerRecipe(weight_bits=bits, activation_bits=bits, reduce_range=True)
    top = 63 if bits == 8 else 2 ** (bits - 1) - 1
    assert (layer.weight_quant_min, layer.weight_quant_max) == (-top - (bits < 4), top)
    assert layer.weight_offset == (0.5 if bits < 4 else 0.0)
    whole = replace(layer, mid_rise=False)
    assert (whole.weight_quant_min, whole.weight_quant_max, whole.weight_offset) == (-top, top, 0.0)
    assert (layer.activation_quant_min, layer.activation_quant_max) == (0, 2**bits - 1)
    signed = LayerRecipe(activation_bits=bits, activation_signed=True)
    assert signed.activation_quant_max == -signed.activation_quant_min == 2 ** (bits - 1) - 1


def test_a_linear_layer_runs_on_four_bits_where_the_kernel_takes_it() -> None:
    packed = LayerRecipe(weight_bits=4, activation_bits=8, four_bit_linear="matmul_nbits")
    assert packed.packs_linear
    for change in (
        {"weight_bits": 3},
        {"activation_bits": 4},
        {"four_bit_linear": "integer"},
        {"four_bit_linear": "auto"},
    ):
        assert not replace(packed, **change).packs_linear
    assert not replace(packed, activation_granularity="frame").packs_linear
    assert not replace(packed, activation_signed=True).packs_linear


def test_frames_have_ranges_of_their_own_only_where_activations_are_quantized() -> None:
    assert LayerRecipe(activation_granularity="frame").by_frame
    assert not LayerRecipe(activation_granularity="frame", activation_bits=None).by_frame
    assert not LayerRecipe().by_frame
