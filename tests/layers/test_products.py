"""The products that a layer names are its quantized weights, each once."""

from __future__ import annotations

import torch
from torch import nn

from qat.layers.swap import quant_layers, swap_
from qat.recipe import Recipe
from tests.layers.hosts import host, kinds, multiplying_kinds, recipe


@multiplying_kinds
def test_every_quantized_weight_takes_part_in_one_product(layer_kind: str) -> None:
    model, x = host(layer_kind)
    swap_(model, recipe(4))
    (_, layer), *_ = quant_layers(model)
    products = layer.products()
    named = [name for product in products for names in product.weights for name in names]
    assert sorted(named) == sorted(name for name, _, _ in layer.weights())
    generator = torch.Generator().manual_seed(0)
    for index, product in enumerate(products):
        rows = layer.product_inputs(index, layer.recorded(x[:1]), False, generator)
        widths = [layer.get_parameter(name)[0].numel() for name in product.weights[0]]
        assert rows.shape[0] == product.groups and rows.shape[2] == sum(widths)
        assert len(product.biases) in (0, len(product.weights))


@kinds
def test_a_layer_of_float_weights_has_no_product(layer_kind: str) -> None:
    model, _ = host(layer_kind)
    swap_(model, recipe(8, weight_bits=0))
    assert all(not layer.products() for _, layer in quant_layers(model))


def test_products_of_a_recurrent_layer_have_inputs_of_their_own() -> None:
    model = nn.Sequential(nn.LSTM(3, 4, num_layers=2), nn.Linear(4, 2))
    swap_(model, Recipe(preset="x"))
    (_, rnn), (_, head) = quant_layers(model)
    assert [(item.suffix, item.own_input) for item in rnn.products()] == [(".l0", True), (".l1", True)]
    assert [(item.suffix, item.own_input) for item in head.products()] == [("", False)]
