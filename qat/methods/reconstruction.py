"""Layers as matrix products: what AdaRound and bias correction see of a linear, convolutional or recurrent layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qat.layers.base import QuantLayer
from qat.layers.products import Product
from qat.layers.weight import WeightQuantizer
from qat.numerics.ada_round import Problem, search_scale, spread

Part = tuple[nn.Parameter, WeightQuantizer]
QUIET = 0.1  # of the mean energy: below it, a frame of a layer with `relative_error` counts no more for being quieter


@dataclass
class Moments:
    """Second moments of a map's inputs: `x^` after the quantized prefix, and its difference to the float model's `x`.

    Sums over frames of the products of `[x^, x^ - x, 1]` with itself, `(G, 2 I + 1, 2 I + 1)`: they merge by addition.
    """

    sums: Tensor | None = None
    count: int = 0

    def add(self, quantized: Tensor, reference: Tensor, weights: Tensor | None = None) -> None:
        """Add frames: `(G, N, I)` each; `weights (G, N)`, of mean 1, say how much each counts."""
        ones = quantized.new_ones(*quantized.shape[:2], 1)
        rows = torch.cat([quantized, quantized - reference, ones], dim=2)
        if weights is not None:
            rows.mul_(weights.sqrt().unsqueeze(2))
        if self.sums is None:
            self.sums = rows.new_zeros(len(rows), rows.shape[2], rows.shape[2])
        self.sums.baddbmm_(rows.transpose(1, 2), rows)
        self.count += rows.shape[1]

    def merge(self, other: Moments) -> None:
        """Add what another part of the frames came to, on whatever device."""
        if other.sums is not None:
            self.sums = other.sums if self.sums is None else self.sums.add_(other.sums.to(self.sums.device))
            self.count += other.count

    def to(self, device: torch.device | str) -> Moments:
        """The same on a device."""
        return Moments(None if self.sums is None else self.sums.to(device), self.count)

    def split(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`E x^ x^'`, `E e x^'`, `E e e'` `(G, I, I)` and the means of `x^` and `e` `(G, I)`, where `e = x^ - x`."""
        assert self.sums is not None and self.count
        mean = self.sums / self.count
        inner = (mean.shape[1] - 1) // 2
        first, second = slice(0, inner), slice(inner, 2 * inner)
        return (
            mean[:, first, first],
            mean[:, second, first],
            mean[:, second, second],
            mean[:, -1, first],
            mean[:, -1, second],
        )


@dataclass(frozen=True)
class LinearMap:
    """One matrix product inside a quantized layer: `G` groups of `(O, I)` weights on `(G, N, I)` inputs.

    Args:
        layer_name: dotted name of the layer.
        layer: the quantized layer.
        index: of the product in the layer.
    """

    layer_name: str
    layer: QuantLayer
    index: int = 0

    @property
    def product(self) -> Product:
        """What the layer says of it."""
        return self.layer.products()[self.index]

    @property
    def name(self) -> str:
        """Of the layer; of a stacked LSTM with the number of the inner layer."""
        return self.layer_name + self.product.suffix

    def of(self, model: nn.Module) -> LinearMap:
        """The same product in another model of the same layers."""
        layer = model.get_submodule(self.layer_name)
        assert isinstance(layer, QuantLayer)
        return LinearMap(self.layer_name, layer, self.index)

    def parts(self) -> list[list[Part]]:
        """For each group the weights that stand side by side along `I`; one group's weight may be a slice of rows."""
        table = {name: quantizer for name, _, quantizer in self.layer.weights()}
        return [
            [(self.layer.get_parameter(name), table[name]) for name in names]
            for names in self.product.weights
        ]

    def gather(self, pick: Callable[[nn.Parameter, WeightQuantizer], Tensor]) -> Tensor:
        """`(G, O, I)` out of one tensor a part, each `(rows, ...)` like the part's weight."""
        groups = [torch.cat([pick(*part).flatten(1) for part in group], dim=1) for group in self.parts()]
        return torch.stack(groups).reshape(self.product.groups, -1, groups[0].shape[1])

    def scatter(self, values: Tensor) -> Iterator[tuple[nn.Parameter, WeightQuantizer, Tensor]]:
        """The inverse of `gather`: each part with its share of `values (G, O, I)`, in the weight's shape."""
        parts = self.parts()
        for group, rows in zip(parts, values.reshape(len(parts), -1, values.shape[2]), strict=True):
            widths = [weight[0].numel() for weight, _ in group]
            for (weight, quantizer), share in zip(group, rows.split(widths, dim=1), strict=True):
                yield weight, quantizer, share.reshape(weight.shape)

    @property
    def moments_bytes(self) -> int:
        """Memory of its moments: it grows with the square of I, not with the speech."""
        columns = sum(weight[0].numel() for weight, _ in self.parts()[0])
        return 4 * self.product.groups * (2 * columns + 1) ** 2

    @property
    def weight(self) -> Tensor:
        """Float weights `(G, O, I)`."""
        return self.gather(lambda weight, _: weight.detach().float())

    @property
    def quantized_weight(self) -> Tensor:
        """The weights as the layer rounds them now."""
        return self.gather(lambda weight, quantizer: quantizer(weight.detach()).float())

    @property
    def biases(self) -> list[nn.Parameter]:
        """The bias that a mean error is taken out of, one a part of `O`; empty where the layer has none."""
        return [self.layer.get_parameter(name) for name in self.product.biases]

    def problem(self, moments: Moments, centred: bool) -> Problem:
        """What AdaRound solves; `centred` leaves the mean error to the bias."""
        gram, cross, _, mean, mean_error = moments.split()
        if centred:
            gram = gram - mean.unsqueeze(2) * mean.unsqueeze(1)
            cross = cross - mean_error.unsqueeze(2) * mean.unsqueeze(1)
        weight = self.weight
        scale = self.gather(lambda item, quantizer: quantizer.scale_like(item))
        quantizer = self.parts()[0][0][1]
        levels = (quantizer.quant_min, quantizer.quant_max)
        return Problem(weight, scale, *levels, gram, weight @ cross, quantizer.level_offset)

    def search_scale_(self, problem: Problem) -> None:
        """Set the weights' scales to those with the least error at the output, one a row of each part."""
        widths = [weight[0].numel() for weight, _ in self.parts()[0]]
        if any(quantizer.axis is None for _, quantizer in self.parts()[0]):
            return  # one scale for the whole tensor: rows cannot choose
        factors = search_scale(problem, widths)
        for _, quantizer, share in self.scatter(spread(factors, widths)):
            quantizer.scale.mul_(share.flatten(1)[:, 0])

    def error(self, moments: Moments) -> float:
        """Mean over frames of the squared error of all outputs, as the layer rounds and is biased now."""
        gram, cross, rest, _, _ = (item.double() for item in moments.split())
        weight = self.weight.double()
        change = self.quantized_weight.double() - weight
        total = (change @ gram * change).sum() + 2 * ((weight @ cross) * change).sum()
        return float(total + ((weight @ rest) * weight).sum())

    def mean_error(self, moments: Moments) -> Tensor:
        """`E[w~ x^] - E[w x]` of each output `(G, O)`."""
        _, _, _, mean, mean_error = moments.split()
        weight = self.weight
        change = self.quantized_weight - weight
        return (change @ mean.unsqueeze(2) + weight @ mean_error.unsqueeze(2)).squeeze(2)

    @torch.no_grad()
    def correct_bias_(self, moments: Moments) -> bool:
        """Take the mean error out of the bias; False where there is none."""
        biases = self.biases
        if biases:
            for bias, error in zip(biases, self.mean_error(moments).reshape(len(biases), -1), strict=True):
                bias.sub_(error)
        return bool(biases)

    def frame_weights(self, reference: Tensor) -> Tensor | None:
        """How much each frame counts, `(G, N)` of mean 1: the inverse of its output's energy; None: all alike.

        Args:
            reference: the float model's inputs `(G, N, I)` of one utterance.
        """
        if not self.layer.relative_error:
            return None
        energy = (reference @ self.weight.transpose(1, 2)).square().sum(2)
        mean = energy.mean(1, keepdim=True)
        inverse = (energy + QUIET * mean).clamp_(min=1e-30).reciprocal_()
        return inverse / inverse.mean(1, keepdim=True)

    def rows(self, x: Any, quantized: bool, generator: torch.Generator) -> Tensor:
        """The inputs of the product `(G, N, I)` out of the layer's input; see `QuantLayer.product_inputs`."""
        return self.layer.product_inputs(self.index, x, quantized, generator)


def linear_maps(name: str, layer: QuantLayer) -> list[LinearMap]:
    """The products of a layer, in the order of their computation; none where its weights stay float."""
    return [LinearMap(name, layer, index) for index in range(len(layer.products()))]
