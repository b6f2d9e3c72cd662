"""Arithmetic of ONNX Runtime's `DynamicQuantizeLSTM`, one layer at a time.

Input and hidden state are quantized on the fly to unsigned 8 bits, per utterance: the input over all its frames at
once, the state anew at every frame. Products are computed on integer-valued floats, whose sums are exact below
2^24, so the result does not depend on how utterances are batched.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qat.numerics.affine import U8_LEVELS as LEVELS
from qat.numerics.affine import centred_levels, dynamic_range

TINY = 2.0**-126


def run_layer(
    x: Tensor,
    lengths: list[int],
    weight_ih: Tensor,
    scale_ih: Tensor,
    weight_hh: Tensor,
    scale_hh: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    cell: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer, all its directions at once.

    Args:
        x: layer input `(B, T, I)`, rows by falling length, zero outside `lengths`.
        lengths: frames of each row, falling; the first is T.
        weight_ih: integer-valued floats `(D, 4H, I)`, gates in the order i, f, o, g.
        scale_ih: `(D, 4H)`.
        weight_hh: `(D, 4H, H)`.
        scale_hh: `(D, 4H)`.
        bias: `(D, 4H)`, both biases added; or None.
        hidden: first state `(D, B, H)`.
        cell: `(D, B, H)`.

    Returns:
        outputs `(B, T, D H)`, last hidden `(D, B, H)`, last cell `(D, B, H)`.
    """
    rows, frames = x.shape[:2]
    low, high = torch.aminmax(x.reshape(rows, -1), dim=1)
    scale, zero_point = dynamic_range(low[:, None, None], high[:, None, None])
    levels = centred_levels(x, scale, zero_point)
    inputs = torch.matmul(levels, weight_ih.transpose(1, 2)[:, None])  # (D, B, T, 4H)
    inputs.mul_(scale * scale_ih[:, None, None])
    if bias is not None:
        inputs.add_(bias[:, None, None])
    if len(inputs) == 2:
        inputs[1] = reverse_frames(inputs[1], lengths)
    states, last_hidden, last_cell = scan(inputs, lengths, weight_hh, scale_hh, hidden, cell)
    if len(states) == 2:
        states[1] = reverse_frames(states[1], lengths)
    return states.permute(1, 2, 0, 3).reshape(rows, frames, -1), last_hidden, last_cell


def scan(
    inputs: Tensor, lengths: list[int], weight: Tensor, scale: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The recurrence over frames.

    Args:
        inputs: projected inputs with bias `(D, B, T, 4H)`, every direction running forwards.
        lengths: falling.
        weight: recurrent levels `(D, 4H, H)`.
        scale: `(D, 4H)`.
        hidden: `(D, B, H)`.
        cell: `(D, B, H)`.

    Returns:
        states `(D, B, T, H)` (zero outside `lengths`), last hidden and last cell `(D, B, H)`.
    """
    inputs = inputs.permute(2, 0, 1, 3).contiguous()
    states = inputs.new_zeros(*inputs.shape[:3], hidden.shape[-1])
    last_hidden, last_cell = torch.empty_like(hidden), torch.empty_like(cell)
    weight, scale = weight.transpose(1, 2).contiguous(), scale[:, None]
    start = 0
    for end in sorted(set(lengths)):  # between two ends the rows that still run stay the same
        active = sum(length >= end for length in lengths)
        hidden, cell = hidden[:, :active], cell[:, :active]
        outputs = []
        for frame in inputs[start:end, :, :active].unbind(0):
            hidden, cell = step(frame, weight, scale, hidden, cell)
            outputs.append(hidden)
        if outputs:
            states[start:end, :, :active] = torch.stack(outputs)
        last_hidden[:, :active], last_cell[:, :active] = hidden, cell
        start = end
    return states.permute(1, 2, 0, 3), last_hidden, last_cell


def step(
    inputs: Tensor, weight: Tensor, scale: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """One frame: next hidden and cell state `(D, B, H)`.

    The same levels as `centred_levels` under `dynamic_range`, in fewer operations: the smallest value always
    lands on level 0, so only the top is clipped, and an all-zero state needs a tiny scale but no case of its own.

    Args:
        inputs: `(D, B, 4H)`, gates in the order i, f, o, g.
        weight: levels `(D, H, 4H)`.
        scale: `(D, 1, 4H)`.
        hidden: `(D, B, H)`.
        cell: `(D, B, H)`.
    """
    low, high = torch.aminmax(hidden, dim=2, keepdim=True)
    low.clamp_(max=0.0)
    unit = high.clamp_(min=0.0).sub_(low).div_(LEVELS).clamp_(min=TINY)
    top = low.div_(unit).round_().add_(LEVELS)
    levels = hidden.div(unit).round_()
    torch.minimum(levels, top, out=levels)
    gates = torch.addcmul(inputs, torch.bmm(levels, weight), unit * scale)
    keep, forget, out, new = gates.chunk(4, dim=2)
    gates.narrow(2, 0, 3 * hidden.shape[2]).sigmoid_()
    cell = torch.addcmul(forget * cell, keep, new.tanh_())
    return torch.tanh(cell).mul_(out), cell


def reverse_frames(x: Tensor, lengths: list[int]) -> Tensor:
    """Reverse each row `(B, T, F)` within its own length; the rest stays in place."""
    frames = x.shape[1]
    if min(lengths) == frames:
        return x.flip(1)
    position = torch.arange(frames, device=x.device)[None]
    length = torch.tensor(lengths, device=x.device)[:, None]
    index = torch.where(position < length, length - 1 - position, position)
    return x.gather(1, index[..., None].expand_as(x))
