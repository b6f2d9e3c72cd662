"""Layers as matrix products: what AdaRound and bias correction see of a linear, convolutional or recurrent layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from qat.layers.base import QuantLayer
from qat.layers.frames import by_frame, padding_of
from qat.layers.lstm import QuantLSTM, float_weights, names_of_layer
from qat.layers.lstm_kernel import run_layer
from qat.layers.quantizer import Quantizer
from qat.numerics.ada_round import Problem, search_scale, spread
from qat.numerics.affine import along, centred_levels, dynamic_range

ROWS = 512  # positions of one utterance that a layer contributes at most
QUIET = 0.1  # of the mean energy: below it, a frame of a layer with `relative_error` counts no more for being quieter


@dataclass
class Moments:
    """Second moments of a map's inputs: `x^` behind the quantized prefix, and its difference to the float model's `x`.

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


@dataclass
class LinearMap:
    """One matrix product inside a quantized layer: `G` groups of `(O, I)` weights on `(G, N, I)` inputs.

    Args:
        name: of the layer; of a stacked LSTM with the number of the inner layer.
        layer: the quantized layer.
        index: inner layer of an LSTM; 0 elsewhere.
    """

    name: str
    layer: QuantLayer
    index: int = 0

    def of(self, model: nn.Module) -> LinearMap:
        """The same product in another model of the same layers."""
        layer = model.get_submodule(self.layer_name)
        assert isinstance(layer, QuantLayer)
        return LinearMap(self.name, layer, self.index)

    @property
    def layer_name(self) -> str:
        """Dotted name of the layer."""
        return self.name.removesuffix(f".l{self.index}") if isinstance(self.layer, QuantLSTM) else self.name

    def parts(self) -> list[list[tuple[nn.Parameter, Quantizer]]]:
        """For each group the weights that stand side by side along `I`; one group's weight may be a slice of rows."""
        if isinstance(self.layer, QuantLSTM):
            return [
                [self._part(name) for name in names[:2]] for names in names_of_layer(self.layer, self.index)
            ]
        return [[self._part("weight")]]

    def _part(self, name: str) -> tuple[nn.Parameter, Quantizer]:
        table = {key: quantizer for key, _, quantizer in self.layer.weights()}
        return self.layer.get_parameter(name), table[name]

    @property
    def groups(self) -> int:
        """Groups of a convolution, directions of an LSTM, else 1."""
        if isinstance(self.layer, QuantLSTM):
            return self.layer.directions
        return int(getattr(self.layer, "groups", 1))

    def gather(self, pick: Callable[[nn.Parameter, Quantizer], Tensor]) -> Tensor:
        """`(G, O, I)` out of one tensor a part, each `(rows, ...)` like the part's weight."""
        groups = [torch.cat([pick(*part).flatten(1) for part in group], dim=1) for group in self.parts()]
        return torch.stack(groups).reshape(self.groups, -1, groups[0].shape[1])

    def scatter(self, values: Tensor) -> Iterator[tuple[nn.Parameter, Quantizer, Tensor]]:
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
        return 4 * self.groups * (2 * columns + 1) ** 2

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
        if isinstance(self.layer, QuantLSTM):
            names = names_of_layer(self.layer, self.index)
            return [self.layer.get_parameter(item[2]) for item in names] if self.layer.bias else []
        bias = getattr(self.layer, "bias", None)
        return [bias] if isinstance(bias, nn.Parameter) else []

    def problem(self, moments: Moments, centred: bool) -> Problem:
        """What AdaRound solves; `centred` leaves the mean error to the bias."""
        gram, cross, _, mean, mean_error = moments.split()
        if centred:
            gram = gram - mean.unsqueeze(2) * mean.unsqueeze(1)
            cross = cross - mean_error.unsqueeze(2) * mean.unsqueeze(1)
        weight = self.weight
        scale = self.gather(
            lambda item, quantizer: along(quantizer.positive_scale(), item.ndim, quantizer.axis).expand_as(
                item
            )
        )
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
        """The inputs of the product `(G, N, I)` out of the layer's input; at most `ROWS` positions of each utterance.

        Args:
            x: what the layer was called with.
            quantized: behind the input quantizer, as the layer computes now.
            generator: draws the positions; the same state for the float and the quantized side.
        """
        if isinstance(self.layer, QuantLSTM):
            sides = [
                lstm_rows(self.layer, self.index, item, quantized) for item in utterances_of(self.layer, x)
            ]
        else:
            framed = by_frame(self.layer)
            x = (self.layer.quantize_input(x) if quantized and not framed else x).detach().float()
            sides = [windows(self.layer, item, generator) for item in (x.split(1) if x.ndim > 2 else [x])]
            if quantized and framed:
                sides = [self.layer.input_quantizer(item) for item in sides]
        return torch.cat([sample(item, generator) for item in sides], dim=1)


def linear_maps(layers: Sequence[tuple[str, QuantLayer]]) -> list[LinearMap]:
    """The products of the layers whose weights are quantized; an LSTM has one for each of its stacked layers."""
    found = []
    for name, layer in layers:
        if not any(True for _ in layer.weights()):
            continue
        if isinstance(layer, QuantLSTM):
            found += [LinearMap(f"{name}.l{index}", layer, index) for index in range(layer.num_layers)]
        else:
            found.append(LinearMap(name, layer))
    return found


def sample(rows: Tensor, generator: torch.Generator) -> Tensor:
    """At most `ROWS` of `(G, N, I)`, drawn without replacement."""
    if rows.shape[1] <= ROWS:
        return rows
    return rows[:, drawn(rows.shape[1], generator).to(rows.device)]


def drawn(count: int, generator: torch.Generator) -> Tensor:
    """`ROWS` of `count` positions in order, drawn without replacement; all where there are no more."""
    if count <= ROWS:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:ROWS].sort().values


def windows(layer: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """What each output position of a linear layer or convolution multiplies, `(G, N, I)`, of one utterance."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    sides, mode = padding_of(layer)
    x = F.pad(x, sides, mode=mode) if any(sides) else x
    spatial = x.ndim - 2
    for axis in range(spatial):
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        x = x.unfold(2 + axis, span, layer.stride[axis])[..., :: layer.dilation[axis]]
    # (1, C, positions..., kernel...): pick positions before anything is copied
    places = x.shape[2 : 2 + spatial]
    chosen = drawn(math.prod(places), generator)
    index = [part.to(x.device) for part in torch.unravel_index(chosen, places)]
    picked = x[0].movedim(0, spatial)[tuple(index)]  # (N, C, kernel...)
    return picked.reshape(len(chosen), layer.groups, -1).transpose(0, 1).contiguous()


def utterances_of(layer: nn.LSTM, x: Tensor | PackedSequence) -> list[Tensor]:
    """Frames `(T, F)` of each utterance of an LSTM's input."""
    if isinstance(x, PackedSequence):
        padded, lengths = pad_packed_sequence(x, batch_first=True)
        return [item[:length] for item, length in zip(padded, lengths.tolist(), strict=True)]
    if x.ndim == 2:
        return [x]
    return list(x if layer.batch_first else x.transpose(0, 1))


def lstm_rows(layer: QuantLSTM, index: int, x: Tensor, quantized: bool) -> Tensor:
    """Inputs and states side by side, `[x_t, h_(t-1)]`, of inner layer `index`: `(D, T, I + H)`; `x` is `(T, F)`.

    The states are those of the float weights (rounded as the kernel rounds states), also behind a quantized prefix:
    the rounding that is chosen here is to bring the quantized layer close to them.
    """
    x = x.detach().float()[None]
    if quantized and isinstance(layer.input_quantizer, Quantizer):
        x = layer.input_quantizer(x)
    for inner in range(index):
        x = run_inner(layer, inner, x, quantized)
    if quantized and layer.dynamic:
        x = rounded(x, x.min(), x.max())
    states = run_inner(layer, index, x, False)[0].reshape(x.shape[1], layer.directions, -1).transpose(0, 1)
    before = torch.zeros_like(states)
    before[0, 1:] = states[0, :-1]
    if layer.bidirectional:
        before[1, :-1] = states[1, 1:]
    if quantized and layer.dynamic:
        before = rounded(before, before.amin(2, keepdim=True), before.amax(2, keepdim=True))
    return torch.cat([x.expand(layer.directions, -1, -1), before], dim=2)


def rounded(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`x` on the levels of the kernel's dynamic range."""
    scale, zero_point = dynamic_range(low, high)
    return centred_levels(x, scale, zero_point) * scale


def run_inner(layer: QuantLSTM, index: int, x: Tensor, quantized: bool) -> Tensor:
    """Outputs `(1, T, D H)` of one inner layer on `(1, T, F)`, in float or as quantized."""
    zeros = x.new_zeros(layer.directions, 1, layer.hidden_size)
    if quantized and layer.dynamic:
        return run_layer(x, [x.shape[1]], *layer._levels(index), zeros, zeros)[0]
    weights = layer.layer_weights(index) if quantized else float_weights(layer, index)
    rest = (layer.bias, 1, 0.0, False, layer.bidirectional, True)
    return torch._VF.lstm(x, (zeros, zeros), weights, *rest)[0]  # type: ignore[attr-defined]
