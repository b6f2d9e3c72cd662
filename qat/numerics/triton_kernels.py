"""Triton kernels of fake quantization; `fused.py` and `fused_weights.py` launch them.

They compute what `kernel.py` and `rounding.py` compute, in float32 and in the same order, to the last bit: launched
without fused multiply-adds, which would round differently. With `TRITON_INTERPRET=1` they run on CPU tensors.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from qat.numerics import rounding, scales

FIRST = tl.constexpr(rounding.FIRST)
SECOND = tl.constexpr(rounding.SECOND)
GOLDEN = tl.constexpr(rounding.GOLDEN)
NOISE_STEP = tl.constexpr(rounding.NOISE_STEP)
SCALE_FLOOR = tl.constexpr(scales.SCALE_FLOOR)
TINY = tl.constexpr(2.0**-126)
LARGE = tl.constexpr(2.0**22)  # far outside of any range of levels
WHOLE = tl.constexpr(
    1.5 * 2.0**23
)  # adding it leaves a float32 below `LARGE` no fraction: rounds half to even
COLUMNS = tl.constexpr(9)  # of the table of weights
SEEDS = ["seed_low", "seed_high", "stream"]  # numbers that change with every step or tensor


@triton.jit
def mixed(word):
    """`rounding.mixed`."""
    word = (word ^ (word >> 16)) * FIRST
    word = (word ^ (word >> 15)) * SECOND
    return word ^ (word >> 16)


@triton.jit
def noise_bits(place, seed_low, seed_high, stream):
    """`NoiseKey.bits` of the values at `place`, as int32 in [-2^15, 2^15)."""
    first = mixed(seed_low.to(tl.uint32) ^ (stream.to(tl.uint32) * GOLDEN))
    second = mixed(seed_high.to(tl.uint32) + first)
    word = (place >> 1).to(tl.uint32) ^ first
    word = (word ^ (word >> 16)) * FIRST + second
    word = (word ^ (word >> 15)) * SECOND
    word = word ^ (word >> 16)
    half = (word >> ((place & 1) * 16).to(tl.uint32)) & 0xFFFF
    return (half ^ 0x8000).to(tl.int32) - 0x8000


@triton.jit
def clip(x, low, high):
    """`x` within [low, high]; NaN stays."""
    x = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def nearest(x):
    """Half to even; values beyond `LARGE` end there."""
    return (clip(x, -LARGE, LARGE) + WHOLE) - WHOLE


@triton.jit
def rounded(x, scale, place, seed_low, seed_high, stream, STOCHASTIC: tl.constexpr):
    """`x / scale` on whole numbers."""
    level = x * tl.div_rn(1.0, scale)
    if STOCHASTIC:
        noise = noise_bits(place, seed_low, seed_high, stream).to(tl.float32) * NOISE_STEP
        level = tl.floor((level + noise) + 0.5)
    else:
        level = nearest(level)
    return level


@triton.jit
def positive(scale):
    """A learned scale, kept positive."""
    return tl.maximum(tl.abs(scale), SCALE_FLOOR, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def slope_of_positive(scale):
    """Derivative of `positive`."""
    sign = tl.where(scale > 0, 1.0, tl.where(scale < 0, -1.0, 0.0))
    return tl.where(tl.abs(scale) >= SCALE_FLOOR, sign, 0.0)


@triton.jit
def places(BLOCK: tl.constexpr):
    """Bytes of mask of this program `(BLOCK / 8,)`, and the places of their values `(BLOCK / 8, 8)`."""
    byte = tl.program_id(0).to(tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    return byte, byte[:, None] * 8 + tl.arange(0, 8)[None, :]


@triton.jit(do_not_specialize=SEEDS)
def values_forward(
    x, scale, zero_point, out, mask, count, inner, low, high, seed_low, seed_high, stream,
    PER_ROW: tl.constexpr, ZERO: tl.constexpr, STOCHASTIC: tl.constexpr, LEARNED: tl.constexpr,
    MASKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fake-quantizes `count` values, with a scale for all or one for each row of `inner`; one bit of mask each."""
    byte, place = places(BLOCK)
    valid = place < count
    value = tl.load(x + place, mask=valid, other=0.0).to(tl.float32)
    if PER_ROW:
        step = tl.load(scale + place // inner, mask=valid, other=1.0)
    else:
        step = tl.load(scale)
    if LEARNED:
        step = positive(step)
    level = rounded(value, step, place, seed_low, seed_high, stream, STOCHASTIC)
    if ZERO:
        if PER_ROW:
            zero = tl.load(zero_point + place // inner, mask=valid, other=0).to(tl.float32)
        else:
            zero = tl.load(zero_point).to(tl.float32)
        level = level + zero
    clipped = clip(level, low, high)
    if MASKED:
        bits = (clipped == level).to(tl.int32) << tl.arange(0, 8)[None, :]
        tl.store(mask + byte, tl.sum(bits, axis=1).to(tl.uint8), mask=byte * 8 < count)
    if ZERO:
        clipped = clipped - zero
    tl.store(out + place, (clipped * step).to(out.dtype.element_ty), mask=valid)


@triton.jit
def values_backward(grad, mask, out, count, BLOCK: tl.constexpr):
    """The gradient of the values inside the range."""
    byte, place = places(BLOCK)
    valid = place < count
    bits = tl.load(mask + byte, mask=byte * 8 < count, other=0).to(tl.int32)
    inside = ((bits[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0
    up = tl.load(grad + place, mask=valid, other=0.0).to(tl.float32)
    tl.store(out + place, tl.where(inside, up, 0.0).to(out.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=SEEDS)
def learned_backward(
    grad, x, scale, zero_point, out, partial, count, low, high, factor, seed_low, seed_high, stream,
    ZERO: tl.constexpr, STOCHASTIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of the values, computed anew from `x`, and this program's share of that of their one scale."""
    _, place = places(BLOCK)
    valid = place < count
    raw = tl.load(scale)
    step = positive(raw)
    value = tl.load(x + place, mask=valid, other=0.0).to(tl.float32)
    up = tl.load(grad + place, mask=valid, other=0.0).to(tl.float32)
    level = rounded(value, step, place, seed_low, seed_high, stream, STOCHASTIC)
    zero = 0.0
    if ZERO:
        zero = tl.load(zero_point).to(tl.float32)
    level = level + zero
    clipped = clip(level, low, high)
    inside = clipped == level
    tl.store(out + place, tl.where(inside, up, 0.0).to(out.dtype.element_ty), mask=valid)
    slope = (clipped - zero) - tl.where(inside, value * tl.div_rn(1.0, step), 0.0)
    total = tl.sum(tl.sum(tl.where(valid, up * slope, 0.0), axis=1), axis=0)
    tl.store(partial + tl.program_id(0), total * factor * slope_of_positive(raw))


@triton.jit(do_not_specialize=["seed_low", "seed_high"])
def weights_forward(
    table, owner, out, low, high, offset, least, seed_low, seed_high,
    FOLLOW: tl.constexpr, STOCHASTIC: tl.constexpr, HALF: tl.constexpr, SELECT: tl.constexpr, LEARNED: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Rows of many weights, ROWS of one weight a program; see `fused_weights.Table`. FOLLOW stores each row's scale."""
    entry = table + tl.load(owner + tl.program_id(0)).to(tl.int64) * COLUMNS
    row = (tl.program_id(0).to(tl.int64) - tl.load(entry + 3)) * ROWS + tl.arange(0, ROWS)
    present = row < tl.load(entry + 7)
    inner, stream = tl.load(entry + 4), tl.load(entry + 6)
    weight = tl.load(entry).to(tl.pointer_type(tl.float32))
    scale = tl.load(entry + 1).to(tl.pointer_type(tl.float32)) + row * tl.load(entry + 5)
    out += tl.load(entry + 2)
    if FOLLOW:
        largest = tl.zeros([ROWS, WIDTH], tl.float32)
        for start in range(0, inner, WIDTH):
            column = start + tl.arange(0, WIDTH)
            valid = present[:, None] & (column < inner)[None, :]
            value = tl.load(weight + row[:, None] * inner + column[None, :], mask=valid, other=0.0)
            largest = tl.maximum(largest, tl.abs(value))
        step = tl.maximum(tl.div_rn(tl.max(largest, axis=1), high + offset), SCALE_FLOOR)
        tl.store(scale, step, mask=present)
    else:
        step = tl.load(scale, mask=present, other=1.0)
        if LEARNED:
            step = positive(step)
    step = step[:, None]
    shift = offset * step
    for start in range(0, inner, WIDTH):
        column = start + tl.arange(0, WIDTH)
        place = row[:, None] * inner + column[None, :]
        valid = present[:, None] & (column < inner)[None, :]
        value = tl.load(weight + place, mask=valid, other=0.0)
        result = value
        if HALF:
            result = result - shift
        level = rounded(result, step, place, seed_low, seed_high, stream, STOCHASTIC)
        result = clip(level, low, high) * step
        if HALF:
            result = result + shift
        if SELECT:
            chosen = noise_bits(place, seed_low, seed_high, stream + 1) < least
            result = tl.where(chosen, result, value)
        tl.store(out + place, result.to(out.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "first", "first_value", "first_row"])
def weights_backward(
    table, owner, factors, grads, like, out, scale_grad, first, first_value, first_row,
    low, high, offset, least, seed_low, seed_high,
    STOCHASTIC: tl.constexpr, SELECT: tl.constexpr, LEARNED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of the table's weights from program `first` on, and of each row's scale where it is learned.

    `grads` holds an address for each weight of the table, of values like those of `like`; 0 where there is none.
    """
    program = tl.program_id(0).to(tl.int64) + first
    number = tl.load(owner + program)
    entry = table + number.to(tl.int64) * COLUMNS
    address = tl.load(grads + number)
    if address != 0:
        grad = address.to(tl.pointer_type(like.dtype.element_ty))
        row = (program - tl.load(entry + 3)) * ROWS + tl.arange(0, ROWS)
        present = row < tl.load(entry + 7)
        inner, stream = tl.load(entry + 4), tl.load(entry + 6)
        weight = tl.load(entry).to(tl.pointer_type(tl.float32))
        scale = tl.load(entry + 1).to(tl.pointer_type(tl.float32)) + row * tl.load(entry + 5)
        out += tl.load(entry + 2) - first_value
        raw = tl.load(scale, mask=present, other=1.0)
        step = (positive(raw) if LEARNED else raw)[:, None]
        shift, total = offset * step, tl.zeros([ROWS, WIDTH], tl.float32)
        for start in range(0, inner, WIDTH):
            column = start + tl.arange(0, WIDTH)
            place = row[:, None] * inner + column[None, :]
            valid = present[:, None] & (column < inner)[None, :]
            value = tl.load(weight + place, mask=valid, other=0.0) - shift
            up = tl.load(grad + place, mask=valid, other=0.0).to(tl.float32)
            level = rounded(value, step, place, seed_low, seed_high, stream, STOCHASTIC)
            clipped = clip(level, low, high)
            inside = clipped == level
            slope = tl.where(inside, clipped - value * tl.div_rn(1.0, step), clipped + offset)
            if SELECT:
                chosen = noise_bits(place, seed_low, seed_high, stream + 1) < least
                inside, slope = inside | (chosen == 0), tl.where(chosen, slope, 0.0)
            tl.store(out + place, tl.where(inside, up, 0.0), mask=valid)
            total += tl.where(valid, up * slope, 0.0)
        if LEARNED:
            found = tl.sum(total, axis=1) * tl.load(factors + number) * slope_of_positive(raw)
            tl.store(scale_grad + tl.load(entry + 8) - first_row + row, found, mask=present)


@triton.jit(do_not_specialize=SEEDS)
def frames_forward(
    x, out, rows, inner, levels, seed_low, seed_high, stream,
    STOCHASTIC: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Rows of `inner` values, ROWS a program, each on the levels of its own range; see `qat.layers.frames`."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    present = row < rows
    least, most = tl.zeros([ROWS, WIDTH], tl.float32), tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(0, inner, WIDTH):
        column = start + tl.arange(0, WIDTH)
        valid = present[:, None] & (column < inner)[None, :]
        value = tl.load(x + row[:, None] * inner + column[None, :], mask=valid, other=0.0).to(tl.float32)
        least, most = tl.minimum(least, value), tl.maximum(most, value)
    low = tl.min(least, axis=1)
    step = tl.div_rn(tl.max(most, axis=1) - low, levels)
    step = tl.where(step == 0, 1.0, step)
    zero = clip(nearest(-tl.div_rn(low, step)), 0.0, levels)[:, None]
    step = step[:, None]
    for start in range(0, inner, WIDTH):
        column = start + tl.arange(0, WIDTH)
        place = row[:, None] * inner + column[None, :]
        valid = present[:, None] & (column < inner)[None, :]
        value = tl.load(x + place, mask=valid, other=0.0).to(tl.float32)
        level = tl.div_rn(value, step)
        if STOCHASTIC:
            noise = noise_bits(place, seed_low, seed_high, stream).to(tl.float32) * NOISE_STEP + 0.5
            level = tl.floor(level + noise)
        else:
            level = nearest(level)
        level = clip(level + zero, 0.0, levels) - zero
        tl.store(out + place, (level * step).to(out.dtype.element_ty), mask=valid)


@triton.jit
def blocks_forward(x, out, count, inner, each, levels, SIZE: tl.constexpr, ROWS: tl.constexpr):
    """Rows of `inner` values in `each` blocks of SIZE, `count` in all, each by its largest magnitude."""
    block = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = ((block % each) * SIZE)[:, None] + tl.arange(0, SIZE)[None, :]
    place = (block // each)[:, None] * inner + column
    valid = (block < count)[:, None] & (column < inner)
    value = tl.load(x + place, mask=valid, other=0.0).to(tl.float32)
    step = tl.maximum(tl.div_rn(tl.max(tl.abs(value), axis=1), levels), TINY)[:, None]
    level = nearest(tl.div_rn(value, step))
    tl.store(out + place, (level * step).to(out.dtype.element_ty), mask=valid)
