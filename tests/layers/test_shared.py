"""Layers that read one tensor share the work, and nobody notices but the clock."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from qat.layers.quantizer import StepKey
from qat.layers.shared import Shared
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_, set_observing_
from qat.layers.swap import quantizers, set_step_key_, swap_
from qat.recipe import Recipe
from qat.rule import Rule

NAMES = ("query", "key", "value")


class Attention(nn.Module):
    """Three layers on one tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 6)
        self.inner = nn.ModuleDict({name: nn.Linear(6, 5) for name in NAMES})

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return sum((self.inner[name](x) for name in NAMES), torch.zeros(()))


def values(seed: int = 0) -> Tensor:
    return torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(seed))


def quantized(shared: bool, **fields: object) -> nn.Module:
    model = Attention().eval()
    recipe = Recipe(preset="test", reduce_range=False, **fields)  # type: ignore[arg-type]
    swap_(model, recipe, readers=[NAMES] if shared else [])
    calibrate_weights_(model)
    set_observing_(model, True)
    with torch.no_grad():
        for seed in range(3):
            model(values(seed))
    set_observing_(model, False)
    finish_calibration_(model)
    set_enabled_(model, True)
    return model


def of_inner(model: nn.Module) -> list[nn.Module]:
    return [model.get_submodule(f"inner.{name}").input_quantizer for name in NAMES]


@pytest.mark.parametrize(
    "fields",
    [
        {"activation_observer": "percentile"},
        {"activation_observer": "mse"},
        {"activation_observer": "entropy"},
        {"activation_granularity": "frame"},
        {"weight_bits": 4, "four_bit_linear": "matmul_nbits"},
    ],
    ids=str,
)
def test_sharing_changes_no_bit_of_values_gradients_and_state(fields: dict[str, object]) -> None:
    found = []
    for shared in (True, False):
        model = quantized(shared, **fields)
        assert (len(set(map(id, of_inner(model)))) == 1) == shared
        with torch.no_grad():
            evaluated = model(values())
        model.train()(values()).square().sum().backward()
        found.append((model.state_dict(), evaluated, [item.grad for item in model.parameters()]))
    (one, first, grads), (other, second, others) = found
    assert list(one) == list(other), "the keys of a checkpoint stay"
    assert torch.equal(first, second)
    for key in one:
        if "counts" not in key:
            assert torch.equal(one[key], other[key]), key
    for grad, expected in zip(grads, others, strict=True):
        torch.testing.assert_close(
            grad, expected, rtol=1e-6, atol=1e-7
        )  # three gradients, added before or after
    quantized(True, **fields).load_state_dict(other)


def test_a_histogram_counts_a_tensor_that_three_layers_read_once() -> None:
    shared, apart = (dict(quantizers(quantized(item))) for item in (True, False))
    name = "inner.query.input_quantizer"
    assert torch.equal(shared[name].observer.counts, apart[name].observer.counts)  # type: ignore[union-attr]


def test_layers_of_other_bits_and_learned_scales_stay_apart() -> None:
    rule = Rule(match="inner.key", activation_bits=4)
    assert len(set(map(id, of_inner(quantized(True, rules=[rule]))))) == 3
    assert len(set(map(id, of_inner(quantized(True, learn_scale=True))))) == 3


def test_the_work_is_done_once_for_each_tensor() -> None:
    calls: list[Tensor] = []

    def work(x: Tensor) -> Tensor:
        calls.append(x)
        return x + len(calls)

    shared, x = Shared(3), values()
    results = [shared(work, x, ()) for _ in range(3)]
    assert len(calls) == 1 and all(result is results[0] for result in results)
    shared(work, x, ())
    assert len(calls) == 2, "a fourth reading is another forward"
    shared(work, x, ("another step",))
    assert len(calls) == 3
    x.add_(1)
    shared(work, x, ("another step",))
    assert len(calls) == 4, "changed in place"
    shared(work, x.clone(), ("another step",))
    assert len(calls) == 5
    with torch.no_grad():
        shared(work, x, ("another step",))
    assert len(calls) == 6
    with torch.inference_mode():
        inside = values()
        assert shared(work, inside, ()) is shared(work, inside, ())
    assert len(calls) == 7


def test_nothing_is_kept_after_the_last_reader() -> None:
    shared, x = Shared(2), values()
    first = shared(lambda item: item * 2, x, ())
    kept = weakref.ref(first)
    shared(lambda item: item * 2, x, ())
    del first
    gc.collect()
    assert kept() is None


def test_another_step_draws_other_noise_for_the_same_tensor() -> None:
    model, key = quantized(True, rounding="stochastic", weight_observer="max"), StepKey()
    set_step_key_(model.train(), key)
    x = values()
    quantizer = of_inner(model)[0]
    first = quantizer(x)
    key.step = 1
    assert not torch.equal(quantizer(x), first)
