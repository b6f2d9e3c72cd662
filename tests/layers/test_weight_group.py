"""All weights in a few launches: the same values and gradients as one by one, and nothing stale."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.layers.quantizer import StepKey
from qat.layers.state import calibrate_weights_, set_enabled_
from qat.layers.swap import quant_layers, set_step_key_, swap_
from qat.layers.weight import WeightQuantizer
from qat.numerics import fused, fused_weights
from tests.layers.hosts import enabled, kinds, recipe

pytest.importorskip("triton")

FIELDS: dict[str, dict[str, Any]] = {
    "follows": {"weight_observer": "max"},
    "given scale": {"weight_observer": "mse"},
    "one scale": {"weight_observer": "max", "weight_granularity": "tensor"},
    "one given scale": {"weight_observer": "mse", "weight_granularity": "tensor"},
    "learned": {"learn_scale": True},
    "one learned": {"learn_scale": True, "weight_granularity": "tensor"},
    "half steps": {"weight_observer": "max", "bits": 2},
    "learned half steps": {"learn_scale": True, "bits": 3},
    "share": {"weight_observer": "max", "quant_noise": 0.4},
    "learned share": {"learn_scale": True, "quant_noise": 0.4, "bits": 2},
}


@pytest.fixture
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "FORCED", True)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Weights in each launch."""
    found: list[int] = []
    plain = fused_weights.Table.quantize

    def counted(self: fused_weights.Table, *args: Any) -> list[Tensor]:
        found.append(len(self.shapes))
        return plain(self, *args)

    monkeypatch.setattr(fused_weights.Table, "quantize", counted)
    return found


def weights_and_gradients(
    layer_kind: str, rounding: str, training: bool, fields: dict[str, Any]
) -> list[Tensor]:
    """Quantized weights of a layer, the gradients of weights and of learned scales, and the scales."""
    fields = {"bits": 4, **fields}
    model, _ = enabled(layer_kind, fields.pop("bits"), rounding=rounding, **fields)
    set_step_key_(model, StepKey(seed=2, step=5))
    (_, layer), *_ = quant_layers(model.train(training))
    found, generator = [], torch.Generator().manual_seed(0)
    for _, weight, quantizer in layer.weights():
        values = quantizer(weight)
        values.backward(torch.randn(values.shape, generator=generator))
        found += [values.detach(), weight.grad, quantizer.scale.detach().clone()]
        if quantizer.scale.requires_grad:
            found.append(quantizer.scale.grad)
    return found


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("fields", FIELDS.values(), ids=list(FIELDS))
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluated"])
def test_weights_and_gradients_equal_the_plain_path(
    rounding: str, training: bool, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = weights_and_gradients("grouped", rounding, training, fields)
    monkeypatch.setattr(fused, "FORCED", True)
    fast = weights_and_gradients("grouped", rounding, training, fields)
    assert len(plain) == len(fast)
    for one, other in zip(plain[:3], fast[:3], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(plain[3:], fast[3:], strict=True):  # a learned scale's: sums in another order
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@kinds
@pytest.mark.usefixtures("by_kernels")
def test_every_kind_of_layer_quantizes_all_its_weights_in_one_launch(
    layer_kind: str, launches: list[int]
) -> None:
    model, x = enabled(layer_kind, 8, weight_observer="max")
    (_, layer), *_ = quant_layers(model.train())
    model(x)  # each weight is met for the first time
    launches.clear()
    with torch.no_grad():
        for _, weight, _ in layer.weights():
            weight.add_(0.01)
    model(x)
    assert launches == [len(list(layer.weights()))]


def host_of_two() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    swap_(model, recipe(4, weight_observer="max", activation_bits=0, rounding="stochastic"))
    calibrate_weights_(model)
    set_enabled_(model, True)
    return model.train()


def read(model: nn.Module) -> list[Tensor]:
    return [layer.weight_quantizer(layer.weight).detach().clone() for layer in model]  # type: ignore[union-attr]


@pytest.mark.usefixtures("by_kernels")
def test_a_step_of_several_batches_quantizes_once_and_the_next_step_anew(launches: list[int]) -> None:
    model, key = host_of_two(), StepKey()
    set_step_key_(model, key)
    first = read(model)  # each weight is met for the first time
    launches.clear()
    for before, now in zip(first, read(model), strict=True):
        assert torch.equal(before, now)
    assert not launches
    key.step = 1
    second = read(model)
    assert launches == [2] and not torch.equal(first[0], second[0])
    with torch.no_grad():
        model[1].weight.mul_(2)  # type: ignore[operator]
    third = read(model)
    assert launches == [2, 1] and torch.equal(third[0], second[0]) and not torch.equal(third[1], second[1])
    model.eval()
    read(model)
    read(model)
    assert launches == [2, 1, 2], "evaluation reads what is there"


@pytest.mark.usefixtures("by_kernels")
def test_a_weight_that_moves_or_is_replaced_is_found() -> None:
    model = host_of_two().eval()
    read(model)
    model[0].weight = nn.Parameter(torch.randn(5, 6))  # type: ignore[assignment]
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    assert_close_to_levels(model)
    model.double().float()
    assert_close_to_levels(model)


def assert_close_to_levels(model: nn.Module) -> None:
    """Each quantized weight is within its quantizer's clipping and half a step of the float one."""
    for layer, found in zip(model, read(model), strict=True):  # type: ignore[arg-type]
        quantizer = layer.weight_quantizer
        assert isinstance(quantizer, WeightQuantizer)
        assert torch.equal(found, quantizer.fake_quantize(layer.weight))


@pytest.mark.usefixtures("by_kernels")
def test_a_copy_quantizes_its_own_weights() -> None:
    model = host_of_two()
    before = read(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(3)  # type: ignore[operator]
    assert not torch.equal(read(other)[0], before[0])
    for one, two in zip(before, read(model), strict=True):
        assert torch.equal(one, two)


@pytest.mark.usefixtures("by_kernels")
def test_autocast_gives_the_product_its_dtype_and_an_lstm_float32() -> None:
    for layer_kind, dtype in (("linear", torch.bfloat16), ("lstm", torch.float32)):
        model, _ = enabled(layer_kind, 8, weight_observer="max")
        (_, layer), *_ = quant_layers(model.train())
        with torch.autocast("cpu", torch.bfloat16):
            for _, weight, quantizer in layer.weights():
                assert quantizer(weight).dtype == dtype


@pytest.mark.usefixtures("by_kernels")
def test_a_covered_weight_has_no_backward_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = host_of_two()
    read(model)
    monkeypatch.setattr(fused_weights, "launch", lambda *args, **rest: pytest.fail("launched"))
    values = model[0].weight_quantizer(model[0].weight)  # type: ignore[union-attr,operator]
    values.sum().backward()
    assert torch.equal(model[0].weight.grad, torch.ones(5, 6))  # type: ignore[arg-type]
