"""Cells and stacks of them: each row alone, gates in float32, the products that AdaRound sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qat.layers.activation import FixedQuantizer
from qat.layers.cell import gru_update, lstm_update
from qat.methods.reconstruction import linear_maps
from tests.layers.recurrent import FORMS, HIDDEN, INPUTS, ROWS, built, flat, forms, layers


@layers
@forms
@torch.no_grad()
def test_a_row_of_a_beam_does_not_depend_on_its_neighbours_to_the_last_bit(kind: str, form: str) -> None:
    model, x = built(kind, **FORMS[form])
    together = model(x)
    for chosen in ([0], [ROWS - 1], [20, 3, 3, 11]):
        alone = model.on(x[chosen], [state[..., chosen, :] for state in model.states])
        for one, all_rows in zip(alone, together, strict=True):
            rows = all_rows[chosen] if len(all_rows) == ROWS else all_rows[:, chosen]
            assert torch.equal(one, rows)


@layers
@forms
def test_evaluation_on_levels_is_the_fake_quantized_product(kind: str, form: str) -> None:
    model, x = built(kind, **FORMS[form])
    with torch.no_grad():
        exact = model(x)
    for one, other in zip(exact, model(x), strict=True):  # a gradient is possible: the differentiable path
        torch.testing.assert_close(one, other.detach(), atol=2e-5, rtol=1e-5)


@layers
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_gradients_pass_through_weights_input_and_states(kind: str, rounding: str) -> None:
    model, x = built(kind, rounding=rounding, weight_observer="max")
    x.requires_grad_()
    for state in model.train().states:
        state.requires_grad_()
    outputs = model(x)
    sum(item.square().sum() for item in outputs).backward()
    for tensor in (x, *model.states, *model.parameters()):
        assert tensor.grad is not None and bool((tensor.grad != 0).any())
        assert bool(torch.isfinite(tensor.grad).all())
    plain = model.layer.to_float()
    expected = flat(plain(x, tuple(model.states) if len(model.states) > 1 else model.states[0]))
    grads = torch.autograd.grad(sum(item.square().sum() for item in expected), [x, model.states[0]])
    for ours, theirs in zip((x.grad, model.states[0].grad), grads, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.1


@layers
@torch.no_grad()
def test_autocast_changes_nothing_on_levels_and_gates_stay_float32_in_training(kind: str) -> None:
    model, x = built(kind)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(one, two) for one, two in zip(model(x), expected, strict=True))
        trained = model.train()(x)
    for one, two in zip(trained, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, two, atol=0.2, rtol=0)


@torch.no_grad()
def test_the_hidden_state_has_a_fixed_range_that_zero_is_a_level_of() -> None:
    model, _ = built("gru_cell", activation_bits=4)
    quantizer = model.layer.hidden_quantizer
    assert isinstance(quantizer, FixedQuantizer) and bool(quantizer.calibrated)
    x = torch.linspace(-1, 1, 1001)
    error = (quantizer(x) - x).abs()
    assert quantizer(torch.zeros(1)) == 0 and error.max() <= float(quantizer.scale) / 2 * 1.001
    assert len(quantizer(x).unique()) == 15


def test_weights_alone_leave_states_float() -> None:
    model, x = built("gru_cell", activation_bits=0, weight_bits=4)
    layer = model.layer
    assert not layer.can_emulate and not isinstance(layer.hidden_quantizer, FixedQuantizer)
    weights = [quantizer(weight) for _, weight, quantizer in layer.weights()]
    plain = torch.nn.GRUCell(INPUTS, HIDDEN)
    plain.load_state_dict(layer.to_float().state_dict())
    with torch.no_grad():
        plain.weight_ih.copy_(weights[0])
        plain.weight_hh.copy_(weights[1])
    torch.testing.assert_close(model(x)[0], plain(x, model.states[0]), atol=1e-6, rtol=1e-5)


@layers
@torch.no_grad()
def test_ada_round_sees_the_rows_that_are_multiplied(kind: str) -> None:
    """Products and biases put together again give the layer's output (of the first frame)."""
    model, x = built(kind, bits=3, ada_round=True)
    layer: Any = model.layer
    states = tuple(model.states) if len(model.states) > 1 else model.states[0]
    generator = torch.Generator().manual_seed(0)
    sums = []
    for item in linear_maps("layer", layer)[: len(layer.sides)]:
        rows = item.rows(layer.recorded(x, states), True, generator)
        out = rows @ item.quantized_weight.transpose(1, 2)
        sums.append(out[0].reshape(ROWS, -1, out.shape[2])[:, 0] + item.biases[0])
    suffix = layer.suffixes()[0][0]
    first = [state[0] if state.ndim == 3 else state for state in model.states]
    if len(sums) == 2:
        expected = gru_update(*sums, first[0])
    else:
        expected = lstm_update(sums[0], layer.get_parameter(f"bias_hh{suffix}"), first[1])[0]
    if hasattr(layer, "num_layers"):
        actual = layer.run_layer(0, x, layer.of_layer(model.states, 0), None, "levels")[0][:, 0, :HIDDEN]
    else:
        actual = model(x)[0]
    torch.testing.assert_close(expected, actual, atol=1e-5, rtol=0)


def test_ada_rounds_choices_are_what_a_cell_computes_with() -> None:
    model, x = built("lstm_cell", bits=4, ada_round=True)
    with torch.no_grad():
        before = model(x)[0]
        for _, weight, quantizer in model.layer.weights():
            quantizer.ada_rounding().choose_(torch.ones(weight.shape, dtype=torch.bool))
        assert not torch.equal(model(x)[0], before)
