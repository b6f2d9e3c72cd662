"""Learned scales and mixed precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_, set_observing_
from qat.layers.swap import swap_
from qat.numerics.affine import fake_quantize
from qat.recipe import Recipe


@pytest.mark.parametrize("low,high,zero", [(-7, 7, 0), (0, 15, 5)])
def test_learned_scale_equals_pytorch_per_tensor(low: int, high: int, zero: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(4000)
    up = torch.randn(4000)
    found = []
    for ours in (True, False):
        scale, value = torch.tensor([0.11], requires_grad=True), x.clone().requires_grad_()
        if ours:
            out = fake_quantize(
                value, scale, torch.tensor([zero], dtype=torch.int32), low, high, grad_factor=0.3
            )
        else:
            out = torch._fake_quantize_learnable_per_tensor_affine(
                value, scale, torch.tensor([float(zero)]), low, high, 0.3
            )
        out.backward(up)
        found.append((out, value.grad, scale.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-4, atol=1e-5)  # sums in another order


def test_learned_scale_equals_pytorch_per_channel() -> None:
    torch.manual_seed(0)
    x, up = torch.randn(5, 300), torch.randn(5, 300)
    found = []
    for ours in (True, False):
        scale, value = torch.linspace(0.05, 0.3, 5).requires_grad_(), x.clone().requires_grad_()
        if ours:
            out = fake_quantize(value, scale, None, -7, 7, axis=0, grad_factor=0.3)
        else:
            out = torch._fake_quantize_learnable_per_channel_affine(
                value, scale, torch.zeros(5), 0, -7, 7, 0.3
            )
        out.backward(up)
        found.append((out, value.grad, scale.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-4, atol=1e-5)


def test_a_scale_that_covers_the_values_needs_no_mask() -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 50)
    grads = []
    for clips in (True, False):
        x = values.clone().requires_grad_()
        out = fake_quantize(x, values.abs().amax(1) / 7, None, -7, 7, axis=0, clips=clips)
        out.sum().backward()
        grads.append((out, x.grad))
    assert torch.equal(grads[0][0], grads[1][0]) and torch.equal(grads[0][1], grads[1][1])


def test_autocast_quantizes_in_float32() -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(8, 8), nn.Conv1d(5, 4, 3), nn.LSTM(6, 4, batch_first=True)),
        torch.randn(2, 5, 8),
    )
    swap_(model, Recipe(preset="test", weight_observer="max"))
    calibrate_weights_(model)
    set_observing_(model, True)
    model(x)
    set_observing_(model, False)
    finish_calibration_(model)
    set_enabled_(model, True)
    weight = model[0].weight_quantizer(model[0].weight)
    for training in (True, False):
        model.train(training)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model[0].weight_quantizer(model[0].weight), weight)
            out = model(x)[0]
        assert bool(torch.isfinite(out).all())
        torch.testing.assert_close(out.float(), model(x)[0], atol=0.05, rtol=0.05)  # bfloat16 products
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        model(x)[0].float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
