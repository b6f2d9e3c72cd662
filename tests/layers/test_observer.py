"""Observers: extremes exact, counts shared where a tensor is, large tensors thinned fairly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qat.layers import observer as module
from qat.layers.observer import Observer
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.layers.swap import quantizers, swap_
from qat.numerics.affine import fake_quantize
from qat.numerics.histogram import Histogram
from qat.numerics.ranges import histogram_range
from qat.recipe import Recipe


class Projections(nn.Module):
    """Three layers that read the very same tensor, as query, key and value do."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.query(x) + self.key(x) + self.value(x)


def state(observer: Observer) -> list[Tensor]:
    return [value.clone() for value in observer.state_dict().values()]


@torch.no_grad()
def test_layers_that_read_one_tensor_share_the_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    measure = module.measure
    monkeypatch.setattr(module, "measure", lambda x, *rest: calls.append(1) or measure(x, *rest))
    model = Projections()
    swap_(model, Recipe(preset="test"))
    set_observing_(model, True)
    alone = Histogram.empty()
    for seed in range(3):
        x = torch.randn(2, 30, 16, generator=torch.Generator().manual_seed(seed)) * (seed + 1)
        model(x)
        alone.update_(x)
    assert len(calls) == 3
    for name in ("query", "key", "value"):
        histogram = model.get_submodule(name).input_quantizer.observer.histogram
        for field in ("counts", "exponent", "minimum", "maximum"):
            assert torch.equal(getattr(histogram, field), getattr(alone, field)), name


@torch.no_grad()
def test_a_tensor_changed_in_place_is_counted_anew() -> None:
    first, second, x = Observer(), Observer(), torch.ones(10)
    first.observe_(x, -1)
    x.mul_(3)
    second.observe_(x, -1)
    assert float(first.maximum) == 1 and float(second.maximum) == 3
    with torch.inference_mode():
        inside = torch.ones(10)
        second.observe_(inside, -1)
        inside.mul_(5)
        first.observe_(inside, -1)
    assert int(second.counts.sum()) == 20 and float(first.maximum) == 5


@pytest.mark.parametrize("shape", [(8, 5000), (5000, 8), (1, 96, 1000)])
@pytest.mark.parametrize("transposed", [False, True])
def test_thinning_keeps_extremes_mass_and_every_channel(
    shape: tuple[int, ...], transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) + torch.arange(shape[0] * 1.0).view(-1, *[1] * (len(shape) - 1)) % 8
    x.view(-1)[777] = 50.0
    monkeypatch.setattr(module, "COUNTED", 1 << 14)
    x = x.transpose(-1, -2) if transposed else x
    observer, whole = Observer(), Histogram.empty()
    observer.observe_(x, -1)
    whole.update_(x)
    assert x.numel() > module.COUNTED
    assert torch.equal(observer.minimum, whole.minimum) and torch.equal(observer.maximum, whole.maximum)
    assert torch.equal(observer.exponent, whole.exponent)
    assert abs(int(observer.counts.sum()) - x.numel()) < 100
    distance = (observer.counts.cumsum(1) - whole.counts.cumsum(1)).abs().max() / x.numel()
    assert float(distance) < 1.7 / module.COUNTED**0.5  # Kolmogorov-Smirnov at one in a thousand or so


@pytest.mark.parametrize("name", ["mse", "percentile", "entropy"])
def test_a_range_from_thinned_counts_is_nearly_as_good(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(module, "COUNTED", 1 << 15)
    observer, whole = Observer(), Histogram.empty()
    parts = [torch.nn.functional.gelu(torch.randn(64, 2000)) for _ in range(8)]
    for part in parts:
        observer.observe_(part, -1)
        whole.update_(part)
    x, errors = torch.stack(parts), []
    for item in (observer.histogram, whole):
        out = fake_quantize(x, *histogram_range(item, name, 0, 255, False), 0, 255)
        errors.append(float((out - x).square().mean()))
    assert 0.8 < errors[0] / errors[1] < 1.25


def test_the_order_of_utterances_does_not_matter() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(30, 1000) * scale for scale in (0.1, 30.0, 1.0)]
    forwards, backwards = Observer(), Observer()
    for part in parts:
        forwards.observe_(part, -1)
    for part in reversed(parts):
        backwards.observe_(part, -1)
    assert all(map(torch.equal, state(forwards), state(backwards)))


def test_max_keeps_no_counts() -> None:
    model = Projections()
    swap_(model, Recipe(preset="test", activation_observer="max"))
    calibrate_weights_(model)
    set_observing_(model, True)
    model(torch.randn(2, 5, 16))
    finish_calibration_(model)
    sizes = [q.observer.counts.numel() for _, q in quantizers(model) if hasattr(q, "observer")]
    assert sizes == [0, 0, 0]
