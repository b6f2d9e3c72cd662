"""What every quantized layer keeps: off is the float layer, gradients, copies."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import nn

from qat.layers.state import (
    set_enabled_,
)
from qat.layers.swap import quantizers, swap_
from tests.layers.hosts import KINDS, Host, calibrated, enabled, host, kinds, recipe


@kinds
@torch.no_grad()
def test_fewer_bits_are_coarser_and_off_is_the_float_layer_bit_for_bit(layer_kind: str) -> None:
    model, x = host(layer_kind)
    expected, errors = model(x), []
    for bits in (2, 4, 8):
        quantized = copy.deepcopy(model)
        report = swap_(quantized, recipe(bits))
        assert report.swapped == ["layer"] and type(quantized.layer) is KINDS[layer_kind][0]
        assert torch.equal(quantized(x), expected)
        calibrated(quantized, x)
        assert torch.equal(quantized(x), expected)
        set_enabled_(quantized, True)
        errors.append(float((quantized(x) - expected).square().mean()))
        set_enabled_(quantized, False)
        assert torch.equal(quantized(x), expected)
        set_enabled_(quantized, True)
        quantized.layer = quantized.layer.to_float()
        assert type(quantized.layer) is type(model.layer)
        assert torch.equal(quantized(x), expected)
        assert quantized.state_dict().keys() == model.state_dict().keys()
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 0


@kinds
def test_disabled_equals_the_plain_model_after_optimiser_steps(layer_kind: str) -> None:
    plain, x = host(layer_kind)
    quantized = copy.deepcopy(plain)
    swap_(quantized, recipe(rounding="stochastic"))
    for model in (plain.train(), quantized.train()):
        optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(2):
            optimiser.zero_grad()
            model(x).square().sum().backward()
            optimiser.step()
    assert torch.equal(quantized(x), plain(x))
    for (name, ours), theirs in zip(quantized.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@kinds
def test_gradient_reaches_every_parameter_while_enabled(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4, weight_observer="max")
    model.train()
    model(x).square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and bool((weight.grad != 0).any()), name


def test_sides_without_bits_stay_float() -> None:
    for bits in ({"weight_bits": 0}, {"activation_bits": 0}):
        model, x = enabled("conv1d", 8, **bits)
        assert isinstance(model.layer.weight_quantizer, nn.Identity) is ("weight_bits" in bits)
        assert isinstance(model.layer.input_quantizer, nn.Identity) is ("activation_bits" in bits)
        assert isinstance(model.layer.output_quantizer, nn.Identity) is ("activation_bits" in bits)
        assert not torch.equal(model(x), Host(model.layer.to_float())(x))


@kinds
def test_copies_and_pickles_compute_the_same_and_stand_alone(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
        keys = {id(quantizer.noise.key) for _, quantizer in quantizers(other)}
        assert len(keys) == 1 and keys.isdisjoint({id(q.noise.key) for _, q in quantizers(model)})
        with torch.no_grad():
            for weight in other.parameters():
                weight.mul_(0.5)
        assert not torch.equal(other(x), expected)
        assert torch.equal(model(x), expected)
