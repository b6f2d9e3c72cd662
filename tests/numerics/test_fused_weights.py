"""Many weights in one launch, in Triton's interpreter: each as the plain path has it."""

from __future__ import annotations

from weakref import ref

import pytest
import torch
from torch import Tensor

from qat.numerics.affine import fake_quantize
from qat.numerics.fused_weights import Chunk, Table, WeightMode, least_of
from qat.numerics.rounding import NoiseKey

pytest.importorskip("triton")
KEY = NoiseKey.of(1, 2)
SHAPES = [(40, 700), (3, 5, 7), (17, 1), (16, 256)]


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def mode(**fields: object) -> WeightMode:
    values = {
        "low": -7, "high": 7, "offset": 0.0, "share": 1.0, "covered": False, "follows": False,
        "stochastic": False, "learned": False, "dtype": torch.float32,
    }  # fmt: skip
    return WeightMode(**{**values, **fields})  # type: ignore[arg-type]


def plain(weight: Tensor, scale: Tensor, chosen: WeightMode, key: NoiseKey) -> Tensor:
    """The same by `fake_quantize`."""
    offset = (chosen.offset * scale).view(-1, *[1] * (weight.ndim - 1)) if chosen.offset else None
    noise = key if chosen.stochastic else None
    x = weight if offset is None else weight - offset
    out = fake_quantize(x, scale, None, chosen.low, chosen.high, 0 if len(scale) > 1 else None, noise)
    out = out if offset is None else out + offset
    if chosen.share == 1:
        return out
    bits = key._replace(stream=int(key.stream) + 1).bits(weight.shape)
    return torch.where(bits < least_of(chosen.share), out, weight)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("each", [True, False], ids=["channel", "tensor"])
def test_all_weights_and_their_gradients_equal_the_plain_path(
    stochastic: bool, offset: float, share: float, each: bool
) -> None:
    chosen = mode(stochastic=stochastic, offset=offset, share=share)
    found = weights()
    scales = [torch.linspace(0.1, 0.3, len(item)) if each else torch.tensor([0.2]) for item in found]
    keys = [KEY._replace(stream=2 * number) for number in range(len(found))]
    table = Table(found, scales, [int(key.stream) for key in keys])
    results = table.quantize(chosen, KEY)
    ups, expected = [], []
    for weight, scale, key, result in zip(found, scales, keys, results, strict=True):
        leaf = weight.clone().requires_grad_()
        values = plain(leaf, scale, chosen, key)
        assert torch.equal(result, values)
        ups.append(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        values.backward(ups[-1])
        expected.append(leaf.grad)
    for first, end in ((0, 4), (0, 1), (1, 3), (3, 4)):
        grads, none = table.gradients(ups[first:end], first, chosen, KEY)
        assert none == [None] * (end - first)
        assert all(torch.equal(one, other) for one, other in zip(grads, expected[first:end], strict=True))  # type: ignore[arg-type]


def chunk_of_learned() -> tuple[Chunk, list[Tensor], list[Tensor]]:
    """With its weights and scales, which want gradients."""
    found = [weight.requires_grad_() for weight in weights()]
    scales = [
        torch.full((len(item) if number else 1,), 0.2).requires_grad_() for number, item in enumerate(found)
    ]
    chosen, table = mode(learned=True), Table(found, scales, [0] * len(found))
    with torch.no_grad():
        values = table.quantize(chosen, KEY)
    return Chunk(table, 0, values, chosen, KEY), found, scales


def test_a_weight_that_nothing_was_made_of_has_no_gradient() -> None:
    chunk, found, scales = chunk_of_learned()
    chunk.with_gradient(2).sum().backward()
    assert [item.grad is not None for item in found] == [False, False, True, False]
    assert [item.grad is not None for item in scales] == [False, False, True, False]
    assert scales[2].grad is not None and scales[2].grad.shape == scales[2].shape


def test_two_batches_before_their_backwards_share_values_and_add_up() -> None:
    chunk, found, scales = chunk_of_learned()
    first = chunk.with_gradient(0).sum() + chunk.with_gradient(1).sum()
    second = (3 * chunk.with_gradient(0)).sum()
    first.backward()
    once = [found[0].grad.clone(), scales[0].grad.clone()]  # type: ignore[union-attr]
    second.backward()
    torch.testing.assert_close(found[0].grad, 4 * once[0])
    torch.testing.assert_close(scales[0].grad, 4 * once[1])
    (2 * chunk.with_gradient(0)).sum().backward()  # a graph of its own
    torch.testing.assert_close(found[0].grad, 6 * once[0])
    assert scales[0].grad is not None and scales[0].grad.shape == (1,)


def test_a_weight_changed_before_its_backward_is_refused() -> None:
    chunk, found, _ = chunk_of_learned()
    loss = chunk.with_gradient(0).sum()
    with torch.no_grad():
        found[0].add_(1.0)
    with pytest.raises(RuntimeError, match="changed between its forward and its backward"):
        loss.backward()


def test_a_graph_that_is_given_up_is_freed() -> None:
    chunk, *_ = chunk_of_learned()
    chunk.with_gradient(0)
    gone = ref(chunk)
    del chunk
    assert gone() is None


def test_a_scale_that_follows_is_the_largest_magnitude_of_its_row_and_is_stored() -> None:
    found = weights()
    found[0][3] = 0  # a dead channel
    scales = [torch.ones(len(item)) for item in found]
    chosen = mode(covered=True, follows=True, offset=0.5, low=-2, high=1)
    results = Table(found, scales, [0] * len(found)).quantize(chosen, KEY)
    for weight, scale, result in zip(found, scales, results, strict=True):
        expected = (weight.flatten(1).abs().amax(1) / 1.5).clamp(min=2.0**-30)
        assert torch.equal(scale, expected)
        assert torch.equal(result, plain(weight, expected, chosen, KEY))
    assert chosen.passes and not chosen.draws


def test_each_weight_starts_where_a_matrix_product_likes_it() -> None:
    found = weights()
    results = Table(found, [torch.ones(len(item)) for item in found], [0] * 4).quantize(mode(), KEY)
    assert all((item.data_ptr() - results[0].data_ptr()) % 128 == 0 for item in results)
    assert [item.shape for item in results] == [item.shape for item in found]
