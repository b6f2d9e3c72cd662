"""Scaling channels between the layer that produces them and the layers that read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

STANDARD_DEVIATIONS = 3.0  # that a normalised channel reaches, where only the norm's weights are known

Affine = nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm
Weighted = nn.Linear | nn.modules.conv._ConvNd


@dataclass(frozen=True, eq=False)
class ScalePair:
    """A layer whose output channels are read by some layers and by nothing else, whatever is between them.

    Between them may be what commutes with a positive factor of each channel: LeakyReLU, pooling, dropout, a weighted
    mean over frames.

    Args:
        producer: dotted name of a linear or convolutional layer, or of a norm with weights.
        consumers: dotted names of the linear, convolutional or recurrent layers.
        channels: which channel of the consumers each value of the producer becomes `(P,)`, -1 for none; None: one
            to one, in order.
        reason: why it cannot be scaled; empty where it can.
    """

    producer: str
    consumers: tuple[str, ...]
    channels: Tensor | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """In words.

        >>> ScalePair("norm", ("head",)).name
        'norm -> head'
        """
        return f"{self.producer} -> {', '.join(self.consumers)}"


def input_weights(layer: nn.Module) -> Iterator[Tensor]:
    """The weights that read a layer's input, input channels second."""
    if isinstance(layer, nn.RNNBase):
        ends = ("_l0", "_l0_reverse") if layer.bidirectional else ("_l0",)
        yield from (layer.get_parameter(f"weight_ih{end}") for end in ends)
    elif isinstance(layer, nn.RNNCellBase):
        yield layer.get_parameter("weight_ih")
    else:
        yield layer.get_parameter("weight")


def unfit_reason(model: nn.Module, pair: ScalePair) -> str:
    """Why a pair is left as it is; empty if it is scaled."""
    if pair.reason:
        return pair.reason
    producer = model.get_submodule(pair.producer)
    consumers = [model.get_submodule(name) for name in pair.consumers]
    if not isinstance(producer, Affine | Weighted):
        return f"a {type(producer).__name__} has no weights to scale"
    if producer.weight is None:
        return "its norm has no weights"
    if any(getattr(layer, "groups", 1) > 1 for layer in consumers):
        return "a convolution of groups reads it"
    return ""


def output_range(producer: nn.Module, channels: Tensor | None = None, count: int = 0) -> Tensor:
    """Range of each channel that a layer produces, by its weights alone `(C,)`.

    Args:
        producer: linear or convolutional: the largest magnitude in each row. A norm: its bias and three times its
            weight, as what it normalises has unit variance.
        channels: see `ScalePair`.
        count: number of channels, where they are not one to one.
    """
    if isinstance(producer, Affine):
        ranges = STANDARD_DEVIATIONS * producer.weight.detach().abs()
        if producer.bias is not None:
            ranges = ranges + producer.bias.detach().abs()
        ranges = ranges.flatten()
    else:
        ranges = producer.get_parameter("weight").detach().abs().flatten(1).amax(1)
    if channels is None:
        return ranges
    channels = channels.to(ranges.device)
    kept = channels >= 0
    return ranges.new_zeros(count).scatter_reduce(0, channels[kept], ranges[kept], "amax")


def input_range(layer: nn.Module) -> Tensor:
    """Largest magnitude of the weights that read each input channel `(C,)`."""
    found = [weight.detach().abs().transpose(0, 1).flatten(1).amax(1) for weight in input_weights(layer)]
    return torch.stack(found).amax(0)


@torch.no_grad()
def scale_pair_(model: nn.Module, pair: ScalePair, scale: Tensor) -> None:
    """Divide the channels where they are produced, multiply them where they are read, in place.

    Args:
        model: holds the layers.
        pair: without a reason against it.
        scale: of each channel `(C,)`, positive.
    """
    producer = model.get_submodule(pair.producer)
    factor = 1 / scale
    if pair.channels is not None:  # the value at the end stands for -1: not read
        factor = torch.cat((factor, factor.new_ones(1)))[pair.channels.to(factor.device)]
    for parameter in (producer.weight, producer.bias):
        if isinstance(parameter, Tensor):
            shape = parameter.shape if isinstance(producer, Affine) else (-1, *[1] * (parameter.ndim - 1))
            parameter.mul_(factor.to(parameter).view(shape))
    for name in pair.consumers:
        for weight in input_weights(model.get_submodule(name)):
            weight.mul_(scale.to(weight).view(1, -1, *[1] * (weight.ndim - 2)))
