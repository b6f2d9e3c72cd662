"""Fake quantization on a GPU beside the CPU's plain path: values, noise and gradients must be equal."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qat.layers.linear import QuantLinear
from qat.layers.quantizer import StepKey
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_, set_observing_
from qat.layers.swap import quant_layers, set_step_key_, swap_
from qat.numerics import fused
from qat.numerics.affine import fake_quantize
from qat.numerics.rounding import NoiseKey
from qat.recipe import Recipe

LEARNED_DIFFERENCE = 1e-4  # of the gradient of a learned scale, relative: its sum runs in another order
SHAPE = (4, 73, 96)  # odd enough to leave a piece of a block
WIDTHS = (130, 33)  # of the layers
NOISE_SHAPE = (1000, 31)
NEAREST: dict[str, Any] = {"weight_observer": "max", "activation_observer": "max"}
RECIPES: dict[str, dict[str, Any]] = {
    "nearest": NEAREST,
    "nearest, clipped": {"weight_observer": "mse", "activation_observer": "percentile", "percentile": 99.0},
    "stochastic": {**NEAREST, "rounding": "stochastic"},
    "stochastic, 3 bits": {**NEAREST, "rounding": "stochastic", "weight_bits": 3, "activation_bits": 3},
    "half steps, 2 bits": {"weight_bits": 2, "activation_bits": 4},
    "learned": {"learn_scale": True, "weight_bits": 4, "activation_bits": 4},
    "learned, half steps": {"learn_scale": True, "weight_bits": 3, "activation_bits": 4},
    "Quant-Noise": {**NEAREST, "quant_noise": 0.5},
    "per frame": {**NEAREST, "activation_granularity": "frame", "rounding": "stochastic"},
    "in blocks": {**NEAREST, "weight_bits": 4},
}
Outputs = dict[str, Tensor]


def compare_all(device: str) -> tuple[bool, dict[str, Any]]:
    """Whether everything is equal, and what is not.

    Args:
        device: cuda; cpu runs the kernels in Triton's interpreter, where TRITON_INTERPRET=1.
    """
    different: list[str] = []
    largest = 0.0
    ours, theirs = outputs("cpu"), outputs(device, kernels=True)
    for name, other in theirs.items():
        value, other = ours[name], other.cpu()
        if name.endswith("gradient of the scale"):
            difference = float(((value - other).abs() / value.abs().max().clamp(min=1e-20)).max())
            largest = max(largest, difference)
            if not difference <= LEARNED_DIFFERENCE:
                different.append(name)
        elif not torch.equal(value, other):
            different.append(name)
    values = {"compared": len(theirs), "different": ", ".join(different)}
    return not different, {**values, "scale_gradient_relative_difference": largest}


def outputs(device: str, kernels: bool = False) -> Outputs:
    """Name -> tensor of all that is compared, computed on a device."""
    with forced(kernels and device == "cpu"):
        found = dict(noise_outputs(device))
        found |= dict(function_outputs(device))
        for name, fields in RECIPES.items():
            found |= {f"{name}: {key}": value for key, value in layer_outputs(fields, device)}
    return found


@contextmanager
def forced(on: bool) -> Iterator[None]:
    """Run the kernels on a CPU as well."""
    if on and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("TRITON_INTERPRET: must be 1 before the start, so that the kernels run on a CPU")
    fused.FORCED = on
    try:
        yield
    finally:
        fused.FORCED = False


def noise_outputs(device: str) -> Iterator[tuple[str, Tensor]]:
    """Noise of one key."""
    for key in (NoiseKey.of(1, 2, 3), NoiseKey.of(7), NoiseKey(2**62 + 5, 11)):
        yield f"noise of {key.seed}", key.bits(torch.Size(NOISE_SHAPE), torch.device(device))


def function_outputs(device: str) -> Iterator[tuple[str, Tensor]]:
    """`fake_quantize` with one scale and with a scale for each row, in each dtype; values and gradients."""
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    half = (
        (torch.float16,) if fused.FORCED else (torch.float16, torch.bfloat16)
    )  # the interpreter cuts bfloat16 off
    for dtype in (torch.float32, *half):
        for axis, count in ((None, 1), (0, SHAPE[0])):
            for key in (None, NoiseKey.of(4, 5)):
                scale = (torch.arange(count) + 1.0).mul(0.01).to(device)
                zero_point = (torch.arange(count, dtype=torch.int32) * 3 + 100).to(device)
                values = x.clone().to(device, dtype).requires_grad_()
                out = fake_quantize(values, scale, zero_point, 0, 255, axis, key)
                out.backward(grad.to(device, dtype))
                name = f"{dtype}, {count} scales, {'nearest' if key is None else 'stochastic'}"
                yield name, out.detach()
                yield f"{name}: gradient", gradient(values)


def layer_outputs(fields: dict[str, Any], device: str) -> Iterator[tuple[str, Tensor]]:
    """What the quantizers of some layers give in training, with gradients, and in evaluation."""
    model = copy.deepcopy(calibrated(Recipe.from_dict({"preset": "mine", **fields}))).to(device)
    generator = torch.Generator().manual_seed(1)
    for training in (True, False):
        model.train(training)
        for name, layer in quant_layers(model):
            assert isinstance(layer, QuantLinear)
            shape = (SHAPE[0], SHAPE[1], layer.in_features)
            x = torch.randn(shape, generator=generator).to(device).requires_grad_()
            model.zero_grad()
            for what, value, quantizer in (
                ("input", x, layer.input_quantizer),
                ("weight", layer.weight, layer.weight_quantizer),
            ):
                label = f"{name}.{what}, {'training' if training else 'evaluation'}"
                with torch.set_grad_enabled(training):
                    out = quantizer(value)
                yield label, out.detach()
                if training:
                    out.backward(torch.randn(out.shape, generator=generator).to(device))
                    yield f"{label}: gradient", gradient(value)
                    if isinstance(getattr(quantizer, "scale", None), nn.Parameter):
                        yield f"{label}: gradient of the scale", gradient(quantizer.scale)


def calibrated(recipe: Recipe) -> nn.Module:
    """Two linear layers with ranges, on the CPU; their quantizers are on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(SHAPE[-1], WIDTHS[0]), nn.Linear(*WIDTHS))
    swap_(model, recipe)
    set_step_key_(model, StepKey(seed=3, step=5))
    set_observing_(model, True)
    with torch.no_grad():
        model.eval()(torch.randn(SHAPE))
    set_observing_(model, False)
    calibrate_weights_(model)
    finish_calibration_(model)
    set_enabled_(model, True)
    return model


def gradient(x: Tensor) -> Tensor:
    """The gradient that a tensor has got, on the CPU."""
    assert x.grad is not None
    return x.grad.detach().cpu()
