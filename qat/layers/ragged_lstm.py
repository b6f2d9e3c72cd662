"""An LSTM over utterances of unequal length whose last state nobody needs.

PyTorch on a CPU steps through packed input frame by frame, and adds to the gradient of the weights at each. oneDNN's
kernel runs a whole direction at once, in a third of the time, but takes padded input. Padding after an utterance does
not reach its frames going forward; going backward each utterance is turned around within its own length first.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from qat.layers.lstm_weights import float_weights, fused_lstm, packed_rows
from qat.layers.masking import to_device_of
from qat.layers.quantizer import Unquantized

_functions: Any = torch._VF
pack_sorted, pad_sorted = _functions._pack_padded_sequence, _functions._pad_packed_sequence


def pack(x: Tensor, frames: Tensor) -> PackedSequence:
    """`(B, T, F)` with `frames (B,)` valid, as `pack_padded_sequence` packs it; with frames on the CPU nothing waits
    for a GPU."""
    sizes, order = frames.cpu().sort(descending=True)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device="cpu"))
    order, inverse = to_device_of(x, order), to_device_of(x, inverse)
    data, batch_sizes = pack_sorted(x.index_select(0, order), sizes, True)
    return PackedSequence(data, batch_sizes, order, inverse)


def unpack(packed: PackedSequence, data: Tensor, total: int) -> Tensor:
    """Frames `data (N, F)`, packed as `packed`, as `(B, total, F)` in the batch's order, with zeros as padding."""
    padded = pad_sorted(data, packed.batch_sizes, True, 0.0, total)[0]
    assert packed.unsorted_indices is not None
    return padded.index_select(0, packed.unsorted_indices)


@runtime_checkable
class Stack(Protocol):
    """What a quantized LSTM tells of its stacked layers in training."""

    input_quantizer: Any

    def layer_input(self, x: Tensor, groups: Tensor | None, rows: int, layer: int) -> Tensor:
        """What a stacked layer reads."""

    def layer_weights(self, layer: int) -> list[Tensor]:
        """Weights of one stacked layer, as `_VF.lstm` takes them."""


class FloatStack:
    """The same of a plain LSTM."""

    def __init__(self, rnn: nn.LSTM) -> None:
        self.rnn, self.input_quantizer = rnn, Unquantized()

    def layer_input(self, x: Tensor, groups: Tensor | None, rows: int, layer: int) -> Tensor:
        """`x` after dropout."""
        rnn = self.rnn
        return nn.functional.dropout(x, rnn.dropout) if layer and rnn.dropout else x

    def layer_weights(self, layer: int) -> list[Tensor]:
        """Not quantized."""
        return float_weights(self.rnn, layer)


def packed_lstm(rnn: nn.LSTM, packed: PackedSequence) -> PackedSequence:
    """Output of `rnn(packed)` from a state of zeros; in training on a CPU equal to it but for rounding.

    Args:
        rnn: plain or quantized, without projection.
        packed: frames of all utterances.
    """
    data, sizes, *order = packed
    if data.device.type != "cpu" or not (rnn.training and torch.is_grad_enabled()):
        return rnn(packed)[0]
    stack = rnn if isinstance(rnn, Stack) else FloatStack(rnn)
    data, groups = stack.input_quantizer(data), packed_rows(sizes, data.device)
    for layer in range(rnn.num_layers):
        data, weights = stack.layer_input(data, groups, int(sizes[0]), layer), stack.layer_weights(layer)
        data = _run_layer(data, sizes, weights, 2 if rnn.bidirectional else 1)
    return PackedSequence(data, sizes, *order)


def _run_layer(data: Tensor, sizes: Tensor, weights: list[Tensor], directions: int) -> Tensor:
    """One stacked layer on packed frames `(N, F)` of `sizes (T,)` utterances a frame -> `(N, directions * H)`."""
    x, lengths = pad_packed_sequence(PackedSequence(data, sizes), batch_first=True)
    steps = torch.arange(x.shape[1], device=x.device)
    valid = steps < lengths[:, None]
    turned = torch.where(valid, lengths[:, None] - 1 - steps, steps)[:, :, None]
    each = len(weights) // directions
    outputs = []
    for direction in range(directions):
        mine = weights[direction * each : (direction + 1) * each]
        state = x.new_zeros(1, len(x), mine[1].shape[1])
        y = torch.gather(x, 1, turned.expand_as(x)) if direction else x
        y = fused_lstm(y, (state, state), mine, each == 4, 1, 0.0, True, False, True)[0]
        outputs.append(torch.gather(y, 1, turned.expand_as(y)) if direction else y)
    return torch.cat(outputs, -1).transpose(0, 1)[valid.T]
