"""The state of all quantizers of a model: keys, switches, loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from qat.layers.state import (
    calibrate_weights_,
    load_float_state_,
    set_enabled_,
    state_hash,
)
from qat.layers.swap import quantizers, swap_
from qat.system.errors import UserError
from tests.layers.hosts import calibrated, enabled, host, kinds, recipe
from tests.pretend_gpu import PretendGPU


@kinds
@pytest.mark.parametrize("learn_scale", [False, True])
def test_state_keys_and_shapes_are_final_from_construction(layer_kind: str, learn_scale: bool) -> None:
    model, x = host(layer_kind)
    swap_(model, recipe(4, learn_scale=learn_scale))
    before = {key: (value.shape, value.dtype) for key, value in model.state_dict().items()}
    calibrated(model, x)
    set_enabled_(model, True)
    model.train()(x)
    assert {key: (value.shape, value.dtype) for key, value in model.state_dict().items()} == before


@kinds
@torch.no_grad()
def test_a_state_dict_carries_ranges_and_the_switch(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4)
    other, _ = host(layer_kind)
    swap_(other, recipe(4))
    assert not any(quantizer.is_enabled for _, quantizer in quantizers(other))
    other.load_state_dict(model.state_dict())
    assert all(quantizer.is_enabled for _, quantizer in quantizers(other))
    assert torch.equal(other(x), model(x)) and state_hash(other) == state_hash(model)
    set_enabled_(model, False)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def rename(model: nn.Module) -> None:
    model.other = model._modules.pop("layer")


def change_shape(model: Any) -> None:
    model.layer.input_quantizer.scale = model.layer.input_quantizer.scale[None]


def change_dtype(model: Any) -> None:
    model.layer.input_quantizer.scale = model.layer.input_quantizer.scale.view(torch.int32)


def change_value(model: Any) -> None:
    model.layer.weight_quantizer.scale[-1] += 1


@pytest.mark.parametrize("change", [rename, change_shape, change_dtype, change_value])
def test_the_hash_tells_names_shapes_types_and_values_apart(change: Callable[[Any], None]) -> None:
    (model, _), (other, _) = enabled("linear", 4), enabled("linear", 4)
    assert state_hash(model) == state_hash(other)
    change(other)
    assert state_hash(model) != state_hash(other)


def test_the_hash_copies_a_gpus_state_at_once() -> None:
    model, _ = enabled("linear", 4)
    plain = state_hash(model)
    with PretendGPU() as gpu:
        model.to("cuda")
        assert state_hash(model) == plain
    assert len(gpu.reads) == 1


def test_float_weights_that_do_not_fit_are_refused_by_key() -> None:
    model, x = host("conv1d")
    state = {key: value.clone() + 1 for key, value in model.state_dict().items()}
    swap_(model, recipe())
    load_float_state_(model, state)
    assert torch.equal(model.layer.weight, state["layer.weight"])
    with pytest.raises(UserError, match="'layer.bias' is missing"):
        load_float_state_(model, {"layer.weight": state["layer.weight"]})
    with pytest.raises(UserError, match="'layer.extra' is not in the model"):
        load_float_state_(model, {**state, "layer.extra": torch.ones(1)})
    with pytest.raises(UserError, match=r"'layer.weight' has shape \(1,\).*\(8, 6, 3\)"):
        load_float_state_(model, {**state, "layer.weight": torch.ones(1)})
    assert torch.equal(model.layer.weight, state["layer.weight"])


def test_a_quantizer_that_saw_nothing_or_nan_is_named() -> None:
    model, x = host("linear")
    model.unused = nn.Linear(2, 2)
    swap_(model, recipe())
    with pytest.raises(UserError, match="unused.input_quantizer: saw no value"):
        calibrated(model, x)
    with pytest.raises(UserError, match="is not calibrated yet"):
        set_enabled_(model, True)
    assert not any(quantizer.is_enabled for _, quantizer in quantizers(model))
    model, x = host("linear")
    swap_(model, recipe())
    with pytest.raises(UserError, match="layer.input_quantizer: saw NaN or infinite"):
        calibrated(model, x * torch.nan)
    with torch.no_grad():
        model.layer.weight[0, 0] = torch.inf
    with pytest.raises(UserError, match="layer.weight: the weight holds NaN or infinite"):
        calibrate_weights_(model)
