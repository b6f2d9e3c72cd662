"""Activations with one range."""

from __future__ import annotations

from qat.layers.swap import quant_layers
from tests.layers.hosts import enabled, multiplying_kinds


@multiplying_kinds
def test_activations_take_no_more_levels_than_their_bits_allow(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 3)
    (_, layer), *_ = quant_layers(model)
    assert len(layer.input_quantizer(x).unique()) <= 8
