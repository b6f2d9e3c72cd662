"""Full float32 where a GPU would round the factors of products: it then finds the ranges and roundings of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

HIGHEST = "highest"


@contextmanager
def full_precision() -> Iterator[None]:
    """While entered, float32 products and convolutions are neither TF32, which cuDNN takes by default, nor autocast.

    PyTorch has an older and a newer set of switches, and refuses to read the older where only the newer says it all:
    the one that can be read is switched and restored.
    """
    try:
        restore = _switch_flags()
    except RuntimeError:
        restore = _switch_precisions()
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        for undo in restore:
            undo()


def _switch_flags() -> list[Callable[[], None]]:
    """By the older switches; what restores them.

    Raises:
        RuntimeError: the newer were used.
    """
    cudnn = torch.backends.cudnn
    products, convolutions = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision(HIGHEST)
    cudnn.allow_tf32 = False
    return [
        partial(torch.set_float32_matmul_precision, products),
        partial(setattr, cudnn, "allow_tf32", convolutions),
    ]


def _switch_precisions() -> list[Callable[[], None]]:
    """By the newer switches."""
    backends: Any = torch.backends
    places = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    restore: list[Callable[[], None]] = [
        partial(setattr, place, "fp32_precision", place.fp32_precision) for place in places
    ]
    for place in places:
        place.fp32_precision = "ieee"
    return restore
