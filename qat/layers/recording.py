"""What the layers of a model are called with, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from qat.layers.base import QuantLayer
from qat.layers.swap import quant_layers


class _Reached(Exception):
    """All wanted inputs are there; the rest of the forward is not needed."""


@dataclass
class Recorded:
    """Inputs that layers were called with, in order of the calls; of a recurrent layer its states too."""

    calls: list[tuple[str, Any]] = field(default_factory=list)

    def of(self, name: str) -> list[Any]:
        """Those of one layer, which a decoder calls once a label."""
        return [x for called, x in self.calls if called == name]

    @property
    def repeated(self) -> set[str]:
        """Names of the layers that were called more than once."""
        names = [name for name, _ in self.calls]
        return {name for name in names if names.count(name) > 1}


@contextmanager
def record_inputs(model: nn.Module, names: Sequence[str], stop: bool = True) -> Iterator[Recorded]:
    """While active, keeps what the named layers are called with.

    Args:
        model: to be run inside.
        names: dotted names.
        stop: leave the forward once every layer was called (for those called once); the `with` block ends there.
    """
    recorded, missing = Recorded(), set(names)

    def keep(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            taken = layer.recorded(*inputs, **named) if isinstance(layer, QuantLayer) else inputs[0]
            recorded.calls.append((name, taken))
            missing.discard(name)
            if stop and not missing:
                raise _Reached

        return hook

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(keep(name), with_kwargs=True) for name in names
    ]
    try:
        yield recorded
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()


def execution_order(model: nn.Module, run: Callable[[], Any]) -> list[list[str]]:
    """Names of the quantized layers in the order of their first calls, those that read the very same tensor together.

    A layer in a decoder's loop is called more than once; what it reads then is in `Recorded.of`.
    """
    names = [name for name, _ in quant_layers(model)]
    with torch.no_grad(), record_inputs(model, names, stop=False) as recorded:
        run()
    groups: list[list[str]] = []
    before: Any = None
    seen: set[str] = set()
    for name, x in recorded.calls:
        read = x[0] if isinstance(x, tuple) and not isinstance(x, PackedSequence) else x
        if name not in seen:
            if read is before:
                groups[-1].append(name)
            else:
                groups.append([name])
        seen.add(name)
        before = read
    return groups
