"""Operations that give the same bits at every run, where `--trainer.deterministic true` asks for them.

Some operations of our models have no such implementation on a GPU: their gradients add up in whatever order threads
finish, and PyTorch raises where deterministic algorithms are asked for. They are replaced by others of the same values:

- reflecting padding (SpeechBrain's convolutions) by slices that are turned around and joined;
- max pooling whose windows do not overlap (SpeechBrain's pooling) by the largest value along an axis; values that tie
  share the gradient, where pooling gives it to the first;
- the CTC loss by the CPU's, to which the log probabilities are copied.

The rest has repeatable implementations, which PyTorch takes by itself then: convolutions, LSTMs, attention, indexing,
and in compiled code the gradient of padding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def repeatable() -> AbstractContextManager[Any]:
    """To be entered around a forward pass: replaces these operations where deterministic algorithms are asked for.

    Their gradients follow. It does so on any device; where nothing is asked for, nothing changes.
    """
    return _Replacing() if torch.are_deterministic_algorithms_enabled() else nullcontext()


def pad(input: Tensor, pad: list[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """`F.pad`."""
    sides = list(zip(pad[::2], pad[1::2], strict=True))
    sizes = input.shape[::-1]
    if mode != "reflect" or any(
        not 0 <= side < size for pair, size in zip(sides, sizes, strict=False) for side in pair
    ):
        return F.pad(input, pad, mode, value)
    for axis, (before, after) in enumerate(sides, start=1):
        size = input.shape[-axis]
        first = input.narrow(-axis, 1, before).flip(-axis)
        last = input.narrow(-axis, size - 1 - after, after).flip(-axis)
        input = torch.cat([first, input, last], dim=-axis)
    return input


def max_pool1d(input: Tensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Any:
    """`F.max_pool1d`."""
    pooled = max_of_windows(input, 1, kernel_size, *args, **kwargs)
    return F.max_pool1d(input, kernel_size, *args, **kwargs) if pooled is None else pooled


def max_pool2d(input: Tensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Any:
    """`F.max_pool2d`."""
    pooled = max_of_windows(input, 2, kernel_size, *args, **kwargs)
    return F.max_pool2d(input, kernel_size, *args, **kwargs) if pooled is None else pooled


def max_of_windows(
    input: Tensor,
    axes: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    """Max pooling over the last `axes` dimensions; None where windows overlap, leave gaps or reach past the end."""
    sizes = as_tuple(kernel_size, axes)
    plain = as_tuple(stride or kernel_size, axes) == sizes and not (ceil_mode or return_indices)
    if not plain or any(as_tuple(padding, axes)) or set(as_tuple(dilation, axes)) != {1}:
        return None
    for axis, size in enumerate(reversed(sizes), start=1):
        if size > 1:
            count = input.shape[-axis] // size
            windows = input.narrow(-axis, 0, count * size).unflatten(-axis, (count, size))
            input = windows.amax(-axis)
    return input


def as_tuple(value: Any, count: int) -> tuple[int, ...]:
    """`count` numbers out of one or several."""
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
    return numbers * count if len(numbers) == 1 else numbers


def ctc_loss(log_probs: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`F.ctc_loss`."""
    return F.ctc_loss(log_probs.cpu(), targets.cpu(), *args, **kwargs).to(log_probs.device)


REPLACED: dict[Any, Callable[..., Any]] = {
    F.pad: pad,
    F.max_pool1d: max_pool1d,
    F.max_pool2d: max_pool2d,
    F.ctc_loss: ctc_loss,
}


class _Replacing(TorchFunctionMode):
    """Calls the replacements."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return REPLACED.get(func, func)(*args, **(kwargs or {}))
