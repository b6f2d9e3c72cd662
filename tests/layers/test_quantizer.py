"""The noise of training: keyed by counters, alike on all ranks for weights."""

from __future__ import annotations

import torch
from torch import nn

from qat.layers.quantizer import StepKey
from qat.layers.state import (
    calibrate_weights_,
    set_enabled_,
)
from qat.layers.swap import quant_layers, set_step_key_, swap_
from tests.layers.hosts import enabled, kinds, multiplying_kinds, recipe


@kinds
@torch.no_grad()
def test_stochastic_training_is_keyed_by_step_and_evaluation_repeats(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4, rounding="stochastic", weight_observer="max")
    nearest, _ = enabled(layer_kind, 4, weight_observer="max")
    key = StepKey(seed=3)
    set_step_key_(model, key)
    model.train()
    first = model(x)
    assert torch.equal(model(x), first)
    for change in ("step", "seed"):
        setattr(key, change, 17)
        assert not torch.equal(model(x), first), change
        assert torch.equal(model.eval()(x), nearest.eval()(x))
        model.train()
    key.step, key.seed = 0, 3
    assert torch.equal(model(x), first)


@multiplying_kinds
def test_weights_leave_the_rank_out_of_their_noise_and_activations_do_not(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4, rounding="stochastic", weight_observer="max")
    key = StepKey()
    set_step_key_(model, key)
    (_, layer), *_ = quant_layers(model.train())
    weights = [quantizer(weight) for _, weight, quantizer in layer.weights()]
    inputs = layer.input_quantizer(x)
    key.rank = 1
    for before, (_, weight, quantizer) in zip(weights, layer.weights(), strict=True):
        assert torch.equal(quantizer(weight), before)
    assert not torch.equal(layer.input_quantizer(x), inputs)


def test_quantizers_of_a_model_draw_different_noise() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    model[1].load_state_dict(model[0].state_dict())
    swap_(model, recipe(4, rounding="stochastic", weight_observer="max", activation_bits=0))
    calibrate_weights_(model)
    set_enabled_(model.train(), True)
    a, b = (layer.weight_quantizer(layer.weight) for layer in model)
    assert not torch.equal(a, b)
