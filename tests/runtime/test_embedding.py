"""An exported embedding gives the rows of the fake-quantized one; `test_cells.py` runs its file."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.layer_recipe import LayerRecipe
from qat.layers.embedding import QuantEmbedding
from qat.runtime.embedding import IntegerEmbedding


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@torch.no_grad()
def test_looked_up_levels_are_scaled_row_by_row(bits: int) -> None:
    torch.manual_seed(0)
    layer = QuantEmbedding.from_float(nn.Embedding(9, 6), LayerRecipe(weight_bits=bits)).eval()
    layer.weight_quantizer.calibrate_(layer.weight, "weight")
    layer.weight_quantizer.set_enabled_(True)
    form, words = IntegerEmbedding(layer), torch.tensor([[0, 8], [3, 3]])
    assert form.weight.dtype == torch.int8 and form.weight_scale.shape == (9, 1)
    assert torch.equal(form(words), layer(words))
