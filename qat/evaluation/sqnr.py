"""How much noise quantization adds at the output of each layer, in decibels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.RNNBase, nn.RNNCellBase, nn.Embedding)


@dataclass
class Powers:
    """Running sums of one layer: signal and noise energy in float64, whatever the number of batches."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Tensor, quantized: Tensor) -> None:
        """Add one call's outputs of equal shape."""
        reference, quantized = reference.double(), quantized.double()
        self.signal += float(reference.square().sum())
        self.noise += float((reference - quantized).square().sum())

    @property
    def decibels(self) -> float:
        """10 log10(signal / noise): inf without noise, -inf for noise on a silent signal."""
        if self.noise == 0.0:
            return math.inf
        return 10.0 * math.log10(self.signal / self.noise) if self.signal else -math.inf


def layer_names(reference: nn.Module, quantized: nn.Module) -> list[str]:
    """Dotted names of the linear, convolution, recurrent and embedding layers that both models have, in order."""
    theirs = dict(quantized.named_modules())
    return [
        name
        for name, layer in reference.named_modules()
        if isinstance(layer, LAYERS) and isinstance(theirs.get(name), LAYERS)
    ]


@torch.no_grad()
def layer_sqnr(
    reference: nn.Module,
    quantized: nn.Module,
    batches: Iterable[Any],
    run: Callable[[nn.Module, Any], object],
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Signal-to-quantization-noise ratio of each layer's output, 10 log10(E[y^2] / E[(y - y_q)^2]) in dB.

    Noise of earlier layers is part of it: both models run whole. One batch's outputs are held at a time. Give
    batches of one utterance, or padding counts as signal. The reference must have the same structure (fold
    BatchNorm in both, or use a copy of the quantized model with its quantizers off).

    Args:
        reference: float model.
        quantized: model whose layers have the same names; a layer that is called often counts every call.
        batches: whatever `run` feeds to a model.
        run: runs a model on a batch, `lambda model, batch: model(batch.signal, batch.lengths)`.
        names: layers to measure; None takes all that both models have.

    Returns:
        Decibels per layer, in the order of the reference; layers that no batch reached are left out.

    Raises:
        ValueError: a layer was called a different number of times, or gave another shape, in the two models.
    """
    chosen = list(names) if names is not None else layer_names(reference, quantized)
    powers = {name: Powers() for name in chosen}
    reached: set[str] = set()
    modes = reference.training, quantized.training
    reference.eval(), quantized.eval()
    for batch in batches:
        with recorded(reference, chosen) as clean:
            run(reference, batch)
        with recorded(quantized, chosen) as noisy:
            run(quantized, batch)
        for name in chosen:
            _check_calls(name, clean[name], noisy[name])
            for one, two in zip(clean[name], noisy[name], strict=True):
                powers[name].add(one, two)
                reached.add(name)
    reference.train(modes[0]), quantized.train(modes[1])
    return {name: powers[name].decibels for name in chosen if name in reached}


@contextmanager
def recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """While active, collects the outputs of the named layers, one entry per call."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda layer, inputs, output: outputs[name].append(_tensor(output).detach().clone())

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _tensor(output: Any) -> Tensor:
    if isinstance(output, tuple) and not isinstance(output, PackedSequence):
        output = output[0]  # a recurrent layer: (outputs, state)
    return output.data if isinstance(output, PackedSequence) else output


def _check_calls(name: str, clean: Sequence[Tensor], noisy: Sequence[Tensor]) -> None:
    shapes = [tuple(item.shape) for item in clean], [tuple(item.shape) for item in noisy]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"layer {name}: outputs {shapes[0]} in the float model but {shapes[1]} in the quantized one"
        )
