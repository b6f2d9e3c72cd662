"""Repeatable operations have the values of those that they replace, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from datamodules.batch import Batch
from qat.layers.repeatable import REPLACED, repeatable
from tests.conftest import build, noise

FUNCTIONS = {
    "pad 1d": (lambda x: F.pad(x[0], (2, 1), mode="reflect"), (1, 3, 7, 10)),
    "pad 2d": (lambda x: F.pad(x, (2, 1, 0, 3), mode="reflect"), (2, 3, 7, 10)),
    "pad with zeros": (lambda x: F.pad(x, (1, 1), value=0.5), (2, 3, 7, 10)),
    "pool 1d": (lambda x: F.max_pool1d(x[0], 3), (1, 3, 7, 10)),
    "pool 2d": (lambda x: F.max_pool2d(x, (1, 4)), (2, 3, 7, 10)),
    "pool 2d in both": (lambda x: F.max_pool2d(x, 2, 2), (2, 3, 7, 10)),
    "pool with overlap": (lambda x: F.max_pool2d(x, 3, stride=2, padding=1), (2, 3, 7, 10)),
    "pool with a rest": (lambda x: F.max_pool2d(x, 3, ceil_mode=True), (2, 3, 7, 10)),
    "ctc": (
        lambda x: F.ctc_loss(x.log_softmax(-1), torch.tensor([1, 2, 3]), (7, 5), (2, 1), zero_infinity=True),
        (7, 2, 10),
    ),
}  # fmt: skip


@pytest.fixture
def deterministic() -> Iterator[None]:
    """As `--trainer.deterministic true`."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def with_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    out = function(x)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_equal_and_gradients_but_for_rounding(name: str, deterministic: None) -> None:
    function, shape = FUNCTIONS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plain = with_gradient(function, x)
    with repeatable():
        replaced = with_gradient(function, x)
    assert torch.equal(replaced[0], plain[0])
    torch.testing.assert_close(replaced[1], plain[1], rtol=1e-6, atol=1e-6)  # sums in another order


def test_values_that_tie_share_the_gradient_of_their_window(deterministic: None) -> None:
    x = torch.tensor([[[[1.0, 3.0, 3.0, 2.0]]]])
    with repeatable():
        out, grad = with_gradient(lambda x: F.max_pool2d(x, (1, 4)), x)
    assert out.tolist() == [[[[3.0]]]] and grad.tolist() == [[[[0.0, -0.5, -0.5, 0.0]]]]


class Calls(TorchFunctionMode):
    """Counts the operations that a GPU cannot repeat, as they reach PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = {**dict(enumerate(args)), **(kwargs or {})}
        if func in REPLACED and (func is not F.pad or "reflect" in arguments.values()):
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


def batch() -> Batch:
    lengths = torch.tensor([12_000, 9_000])
    return Batch(noise(2, 0.75), lengths, ["one", "two"], ["a", "b"])


def step(kind: str) -> tuple[Tensor, Tensor, set[str]]:
    module = build(kind)
    module.log = lambda *_, **__: None  # type: ignore[method-assign] # no trainer
    torch.manual_seed(0)
    with Calls() as calls:
        loss = module.training_step(batch(), 0)
    loss.backward()
    grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(grads), set(calls.found)


def test_a_training_step_meets_none_of_the_operations_that_a_gpu_cannot_repeat(
    kind: str, deterministic: None
) -> None:
    loss, grads, calls = step(kind)
    torch.use_deterministic_algorithms(False)
    plain_loss, plain_grads, plain_calls = step(kind)
    assert calls == {"ctc_loss"}  # on the CPU
    assert plain_calls == ({"ctc_loss", "pad", "max_pool2d"} if kind == "crdnn" else {"ctc_loss"})
    assert torch.equal(loss, plain_loss)
    torch.testing.assert_close(grads, plain_grads, rtol=1e-4, atol=1e-4)  # sums in another order
