"""An LSTM's parameters by stacked layer, and its input by utterance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from qat.numerics.affine import centred_levels, dynamic_range, fake_quantize

fused_lstm: Any = torch._VF.lstm  # type: ignore[attr-defined] # PyTorch's kernel of a whole layer


def names_of_layer(rnn: nn.LSTM, layer: int) -> list[list[str]]:
    """Names of one stacked layer's parameters, a list for each direction: both matrices, then the biases."""
    directions = 2 if rnn.bidirectional else 1
    return rnn._all_weights[layer * directions : (layer + 1) * directions]


def float_weights(rnn: nn.LSTM, layer: int) -> list[Tensor]:
    """Weights of one stacked layer as `_VF.lstm` takes them, not quantized."""
    return [getattr(rnn, name) for names in names_of_layer(rnn, layer) for name in names]


def gates_first(rows: Tensor) -> Tensor:
    """Reorder gate rows `(4H, ...)` from PyTorch's i, f, g, o to i, f, o, g: one sigmoid serves three gates."""
    i, f, g, o = rows.chunk(4)
    return torch.cat((i, f, o, g))


def packed_rows(sizes: Tensor, device: torch.device) -> Tensor:
    """Row of the batch that each packed frame belongs to, int64 `(N,)`, from `batch_sizes (T,)`."""
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return (torch.arange(len(starts), device=sizes.device) - starts).to(device, non_blocking=True)


def quantize_rows(x: Tensor, groups: Tensor | None, rows: int) -> Tensor:
    """Dynamic u8 fake quantization per utterance, with the gradient passed straight through.

    Args:
        x: `(B, T, F)`, or packed `(N, F)`.
        groups: utterance of each packed frame `(N,)`; None for `(B, T, F)`.
        rows: utterances `B`.
    """
    with torch.no_grad():
        if groups is None:
            low, high = (end.view(-1, 1, 1) for end in torch.aminmax(x.detach().flatten(1).float(), dim=1))
        else:
            ends = torch.aminmax(x.detach().float(), dim=1)
            zeros = ends[0].new_zeros(rows)
            low = zeros.scatter_reduce(0, groups, ends[0], "amin")[groups, None]
            high = zeros.scatter_reduce(0, groups, ends[1], "amax")[groups, None]
        scale, zero_point = dynamic_range(low, high)
    with torch.autocast(
        x.device.type, enabled=False
    ):  # an LSTM casts by itself, and older ones take no bfloat16
        return fake_quantize(x, scale, zero_point, 0, 255, clips=False)


def on_dynamic_levels(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`x` on the levels of the kernel's dynamic range."""
    scale, zero_point = dynamic_range(low, high)
    return centred_levels(x, scale, zero_point) * scale


def utterances_of(layer: nn.LSTM, x: Tensor | PackedSequence) -> list[Tensor]:
    """Frames `(T, F)` of each utterance of an LSTM's input."""
    if isinstance(x, PackedSequence):
        padded, lengths = pad_packed_sequence(x, batch_first=True)
        return [item[:length] for item, length in zip(padded, lengths.tolist(), strict=True)]
    if x.ndim == 2:
        return [x]
    return list(x if layer.batch_first else x.transpose(0, 1))
