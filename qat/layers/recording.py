"""What the layers of a model are called with, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from qat.layers.swap import quant_layers


class _Reached(Exception):
    """All wanted inputs are there; the rest of the forward is not needed."""


@dataclass
class Recorded:
    """Inputs that layers were called with, in order of the calls."""

    calls: list[tuple[str, Any]] = field(default_factory=list)


@contextmanager
def record_inputs(model: nn.Module, names: Sequence[str], stop: bool = True) -> Iterator[Recorded]:
    """While active, keeps what the named layers are called with.

    Args:
        model: to be run inside.
        names: dotted names.
        stop: leave the forward once every layer was called (each once); the `with` block ends there.
    """
    recorded, missing = Recorded(), set(names)

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            recorded.calls.append((name, inputs[0]))
            missing.discard(name)
            if stop and not missing:
                raise _Reached

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    try:
        yield recorded
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()


def execution_order(model: nn.Module, run: Callable[[], Any]) -> list[list[str]]:
    """Names of the quantized layers in the order of their calls, those that read the very same tensor together.

    Raises:
        RuntimeError: a layer is called more than once.
    """
    names = [name for name, _ in quant_layers(model)]
    with torch.no_grad(), record_inputs(model, names, stop=False) as recorded:
        run()
    groups: list[list[str]] = []
    before: Any = None
    seen: set[str] = set()
    for name, x in recorded.calls:
        if name in seen:
            raise RuntimeError(
                f"{name} is called more than once in a forward: its inputs cannot be told apart"
            )
        seen.add(name)
        if x is before:
            groups[-1].append(name)
        else:
            groups.append([name])
        before = x
    return groups
