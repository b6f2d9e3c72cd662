"""The ONNX nodes that run on integers, written down directly while a model is exported.

They are emitted as they will run, not as `QuantizeLinear`/`DequantizeLinear` pairs for an optimiser to find: ONNX
Runtime 1.32 fuses MatMul + Add to a float Gemm before it looks for the pairs, and folds int8 weights back to float.

Each returns a placeholder of the right shape and type; the arithmetic exists in the exported file only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.onnx.ops import symbolic, symbolic_multi_out

CONTRIB = 1  # version of the com.microsoft operators
# domain of what stands for several nodes until the graph is written, and names of it
LOOPS, GRU_LOOP, FRAME_LINEAR = "speech_qat", "GRULoop", "FrameLinear"


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int = 0, quant_max: int = 255
) -> Tensor:
    """Float -> uint8: `clip(round(x / scale) + zero_point, quant_min, quant_max)`.

    Args:
        x: float32, any shape.
        scale: `()` float32, or `(..., 1)` with one for each row of `x (..., I)`.
        zero_point: as `scale`, uint8.
        quant_min: at least 0.
        quant_max: at most 255.
    """
    # a row as one block: with a scale per item of an axis the runtime starts a task for each
    attributes: dict[str, Any] = {"axis": x.ndim - 1, "block_size": x.shape[-1]} if scale.ndim else {}
    y = symbolic("QuantizeLinear", (x, scale, zero_point), attributes, dtype=torch.uint8, shape=x.shape)
    return y if (quant_min, quant_max) == (0, 255) else clip(y, quant_min, quant_max)


def clip(x: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """uint8 -> uint8 within `[quant_min, quant_max]`: what a width below 8 bits leaves of the range."""
    bounds = [torch.tensor(bound, dtype=torch.uint8) for bound in (quant_min, quant_max)]
    return symbolic("Clip", (x, *bounds), dtype=torch.uint8, shape=x.shape)


def dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int = 0) -> Tensor:
    """Integer -> float32: `(x - zero_point) * scale`.

    Args:
        x: uint8 or int8, any shape.
        scale: `()`, or `(C,)` along `axis`.
        zero_point: as `scale`, of x's type.
        axis: of the channels; a scalar scale ignores it.
    """
    inputs = (x, scale, zero_point)
    return symbolic("DequantizeLinear", inputs, {"axis": axis}, dtype=torch.float32, shape=x.shape)


def linear(
    x: Tensor, scale: Tensor, zero_point: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """uint8 `(..., I)` times int8 -> float32 `(..., O)`: int32 sums, one rescaling, float bias.

    Args:
        x: uint8.
        scale: of x, `()` float32.
        zero_point: of x, `()` uint8.
        weight: int8 `(I, O)`.
        weight_scale: `(O,)` float32.
        bias: `(O,)` float32.
    """
    return symbolic(
        "com.microsoft::MatMulIntegerToFloat",
        (x, weight, scale, weight_scale, zero_point, None, bias),
        dtype=torch.float32,
        shape=(*x.shape[:-1], weight.shape[1]),
        version=CONTRIB,
    )


def frame_linear(
    x: Tensor, scale: Tensor, zero_point: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """uint8 `(..., I)` with a range for each row times int8 -> float32 `(..., O)`; see `qat.runtime.frames`.

    Args:
        x: uint8.
        scale: `(..., 1)` float32, of the rows.
        zero_point: likewise, whole float32.
        weight: int8 `(I, O)`.
        weight_scale: `(O,)` float32.
        bias: `(O,)` float32.
    """
    return symbolic(
        f"{LOOPS}::{FRAME_LINEAR}",
        (x, scale, zero_point, weight, weight_scale, bias),
        dtype=torch.float32,
        shape=(*x.shape[:-1], weight.shape[1]),
        version=1,
    )


def packed_linear(
    x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, columns: int, block_size: int
) -> Tensor:
    """float32 `(..., I)` times 4-bit -> float32 `(..., O)`; activations become int8 in blocks inside the node.

    Args:
        x: float32.
        weight: uint8 `(O, blocks, block_size / 2)`: two levels per byte, the lower first, each plus 8.
        weight_scale: `(O, blocks)` float32.
        bias: `(O,)` float32.
        columns: I.
        block_size: columns of a block.
    """
    attributes: dict[str, Any] = {
        "K": columns,
        "N": weight.shape[0],
        "bits": 4,
        "block_size": block_size,
        "accuracy_level": 4,
    }
    return symbolic(
        "com.microsoft::MatMulNBits",
        (x, weight, weight_scale, None, None, bias),
        attributes,
        dtype=torch.float32,
        shape=(*x.shape[:-1], weight.shape[0]),
        version=CONTRIB,
    )


def reshape(x: Tensor, axes: Sequence[int], shape: Sequence[Any]) -> Tensor:
    """One node, where the exporter would work the lengths of free axes out.

    Args:
        x: float32.
        axes: of the result: a length, 0 for that of the same axis of `x`, -1 for the rest.
        shape: of the result.
    """
    return symbolic("Reshape", (x, torch.tensor(axes)), dtype=torch.float32, shape=shape)


def windows(frames: Any, count: int, dilation: int, stride: int) -> Any:
    """Windows of a convolution along time: `(T - dilation (count - 1) - 1) // stride + 1`."""
    return (frames - (count - 1) * dilation - 1) // stride + 1


def taps(x: Tensor, count: int, dilation: int, stride: int) -> list[Tensor]:
    """What the taps of a convolution along time multiply: `count` of `(B, T', C)` from `(B, T, C)`.

    Args:
        x: float32, padded.
        count: width of the kernel.
        dilation: frames between two taps.
        stride: frames between two windows.
    """
    rest = (count - 1) * dilation
    shape = (x.shape[0], windows(x.shape[1], count, dilation, stride), x.shape[2])

    def tap(number: int) -> Tensor:
        begin = number * dilation
        end = begin - rest or 2**31 - 1  # from the last frame back; the last tap goes to the end
        bounds = [torch.tensor([value]) for value in (begin, end, 1, stride)]
        return symbolic("Slice", (x, *bounds), dtype=torch.float32, shape=shape)

    return [tap(number) for number in range(count)]


def max_pool(x: Tensor, count: int, dilation: int, stride: int) -> Tensor:
    """The largest value of each window, `(B, C, T)` -> `(B, C, T')`; arguments as those of `taps`."""
    return symbolic(
        "MaxPool",
        (x,),
        {"kernel_shape": [count], "dilations": [dilation], "strides": [stride]},
        dtype=torch.float32,
        shape=(*x.shape[:2], windows(x.shape[2], count, dilation, stride)),
    )


def conv(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    output_scale: Tensor,
    output_zero_point: Tensor,
    bias: Tensor | None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """uint8 `(B, C, ...)` -> uint8 `(B, O, ...)`: int32 sums, requantized to the output's scale.

    Args:
        x: uint8.
        scale: of x, `()` float32.
        zero_point: of x, `()` uint8; the padding holds it.
        weight: int8 `(O, C / groups, ...)`.
        weight_scale: `(O,)` float32.
        output_scale: `()` float32.
        output_zero_point: `()` uint8.
        bias: `(O,)` int32, in units of `scale * weight_scale`.
        stride: one number per spatial axis.
        padding: begins of all spatial axes, then their ends.
        dilation: one number per spatial axis.
        groups: divides C and O.
    """
    axes = range(len(stride))
    total = [x.shape[2 + i] + padding[i] + padding[len(stride) + i] for i in axes]
    sizes = [(total[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in axes]
    weight_zero_point = torch.zeros(weight.shape[0], dtype=torch.int8)
    return symbolic(
        "QLinearConv",
        (
            *(x, scale, zero_point),
            *(weight, weight_scale, weight_zero_point),
            *(output_scale, output_zero_point, bias),
        ),
        {"strides": list(stride), "pads": list(padding), "dilations": list(dilation), "group": groups},
        dtype=torch.uint8,
        shape=(x.shape[0], weight.shape[0], *sizes),
    )


def lstm(x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, frames: Tensor) -> Tensor:
    """One float LSTM layer, `(T, B, I)` -> `(T, D, B, H)`; frames past `frames (B,)` int32 come out zero.

    Args:
        x: float32.
        weight: `(D, 4H, I)`, gates in the order i, o, f, c.
        recurrent: `(D, 4H, H)`.
        bias: `(D, 8H)`: of the input, then of the recurrence.
        frames: valid frames of each utterance.
    """
    return _recurrent("LSTM", (x, weight, recurrent, bias, frames), recurrent.shape[2], None)


def integer_lstm(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    recurrent: Tensor,
    recurrent_scale: Tensor,
    bias: Tensor,
    frames: Tensor,
) -> Tensor:
    """One LSTM layer on int8 weights with dynamic uint8 input and state, `(T, B, I)` -> `(T, D, B, H)`.

    Args:
        x: float32; its range is taken over the whole tensor, the state's at every step.
        weight: int8 `(D, I, 4H)`, gates in the order i, o, f, c.
        weight_scale: `(D, 4H)` float32.
        recurrent: int8 `(D, H, 4H)`.
        recurrent_scale: `(D, 4H)` float32.
        bias: `(D, 8H)` float32.
        frames: valid frames `(B,)` int32.
    """
    zeros = torch.zeros(weight_scale.shape, dtype=torch.int8)
    ranges = (weight_scale, zeros, recurrent_scale, zeros)
    inputs = (x, weight, recurrent, bias, frames, None, None, None, *ranges)
    return _recurrent("com.microsoft::DynamicQuantizeLSTM", inputs, recurrent.shape[1], CONTRIB)


def gru(
    sums: Tensor, weight: Tensor, bias: Tensor | None, ranges: Sequence[Tensor], bounds: tuple[int, int]
) -> Tensor:
    """The recurrence of one GRU direction, `(T, B, 3H)` -> `(T, B, H)`; `qat.runtime.loops` writes it out as a Scan.

    Args:
        sums: of the input, with bias, gates in the order reset, update, new.
        weight: `(H, 3H)`, int8 or float32.
        bias: `(3H,)` float32.
        ranges: scale and zero point of the state, `()`, and of int8 weights their scales `(3H,)`; none: all float.
        bounds: least and largest level of the state.
    """
    inputs = (sums, sums.new_zeros(sums.shape[1], weight.shape[0]), weight, bias, *ranges)
    attributes: dict[str, Any] = {"low": bounds[0], "high": bounds[1]}
    shape = (sums.shape[0], sums.shape[1], weight.shape[0])
    return symbolic(f"{LOOPS}::{GRU_LOOP}", inputs, attributes, dtype=torch.float32, shape=shape, version=1)


def _recurrent(name: str, inputs: Sequence[Tensor | None], hidden: int, version: int | None) -> Tensor:
    x, weight = inputs[0], inputs[1]
    assert x is not None and weight is not None
    directions = weight.shape[0]
    state = (directions, x.shape[1], hidden)
    outputs = symbolic_multi_out(
        name,
        inputs,
        {"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward"},
        dtypes=[torch.float32] * 3,
        shapes=[(x.shape[0], *state), state, state],
        version=version,
    )
    return outputs[0]
