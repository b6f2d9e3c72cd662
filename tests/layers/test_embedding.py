"""An embedding: rows on levels of their own, looked up; nothing is multiplied."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.layers.coverage import count_macs, coverage, side_in_float
from qat.layers.embedding import QuantEmbedding
from qat.layers.state import calibrate_weights_, set_enabled_
from qat.layers.swap import swap_
from tests.layers.hosts import enabled, recipe


@pytest.mark.parametrize("bits", range(2, 9))
@torch.no_grad()
def test_each_row_has_a_scale_and_no_more_levels_than_its_bits_allow(bits: int) -> None:
    torch.manual_seed(0)
    plain = nn.Embedding(9, 400)
    plain.weight.mul_(torch.logspace(-3, 3, 9)[:, None])
    model = nn.Sequential(plain).eval()
    swap_(model, recipe(bits))
    layer = model[0]
    assert isinstance(layer, QuantEmbedding) and layer.weight_quantizer.scale.shape == (9,)
    calibrate_weights_(model)
    set_enabled_(model, True)
    out, ids = model(torch.arange(9)), torch.tensor([[3, 3, 8]])
    assert all(len(row.unique()) <= 2**bits for row in out)
    loud = ((out - plain.weight).norm(dim=1) / plain.weight.norm(dim=1)).tolist()
    assert max(loud) < 2 * min(loud) and max(loud) < (0.4, 0.25, 0.16, 0.08, 0.04, 0.02, 0.01)[bits - 2]
    assert torch.equal(model(ids), out[ids])


def test_training_rounds_as_evaluation_and_the_padding_row_gets_no_gradient() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, padding_idx=0))
    swap_(model, recipe(4))
    calibrate_weights_(model)
    set_enabled_(model, True)
    ids = torch.tensor([[0, 2, 2]])
    out = model.train()(ids)
    out.sum().backward()
    assert model[0].weight.grad[:, 0].tolist() == [0, 0, 2, 0, 0]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids), out.detach(), atol=1e-6, rtol=0)


def test_it_counts_as_quantized_with_weight_bits_alone_and_multiplies_nothing() -> None:
    model, x = enabled("embedding", 4, activation_bits=0)
    shares = coverage(model, count_macs(model, lambda: model(x)))
    assert (shares["weights"], shares["layers_quantized"], shares["skipped"]) == (1.0, 1, [])
    assert count_macs(model, lambda: model(x)) == {"layer": 0} and side_in_float(model.layer) == ""


def test_ada_round_has_nothing_to_choose() -> None:
    model, _ = enabled("embedding", 4, ada_round=True)
    assert model.layer.products() == [] and model.layer.weight_quantizer.ada_round is None
    assert [name for name, _, _ in model.layer.weights()] == ["weight"]


@pytest.mark.parametrize(
    ("layer", "fields", "why"),
    [
        (nn.Embedding(3, 4, max_norm=1.0), {}, "no quantized Embedding with max_norm or sparse gradients"),
        (nn.Embedding(3, 4, sparse=True), {}, "no quantized Embedding with max_norm or sparse gradients"),
        (nn.Embedding(3, 4), {"weight_bits": 0}, "the recipe gives it no weight bits"),
    ],
)
def test_embeddings_that_stay_float_say_why(layer: nn.Module, fields: dict[str, int], why: str) -> None:
    report = swap_(nn.Sequential(layer), recipe(8, **fields))
    assert report.skipped[0][0] == "0" and report.skipped[0][1].startswith(why)


def test_it_may_stand_in_a_recipe_of_ranges_for_each_frame() -> None:
    assert swap_(nn.Sequential(nn.Embedding(3, 4)), recipe(activation_granularity="frame")).swapped == ["0"]
