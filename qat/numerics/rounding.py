"""Rounding, and the counter-keyed noise of stochastic rounding.

The noise of a value is a hash of a key and of the value's place in its tensor, in 32-bit integer arithmetic (multiply
and xorshift, after Mueller 2014 and Wellons 2018, "lowbias32"). The same key therefore gives the same bits on every
device, at any time and for any part of a tensor; `triton_kernels.py` computes the same inside its kernels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qat.system.seeds import counter_seed

# Resolution of the noise: the mean of stochastic rounding is exact to this share of a step.
NOISE_STEP = 2.0**-16
GOLDEN, FIRST, SECOND = 0x9E3779B9, 0x7FEB352D, 0x846CA68B  # odd multipliers
PIECE = 1 << 16  # values drawn at a time, so that they stay in the cache
MASK = 0xFFFFFFFF


def round_nearest(x: Tensor) -> Tensor:
    """Round half to even, as integer kernels do.

    >>> round_nearest(torch.tensor([0.5, 1.5, -0.5])).tolist()
    [0.0, 2.0, -0.0]
    """
    return torch.round(x)


def round_stochastic(x: Tensor, noise: Tensor) -> Tensor:
    """Round up with probability equal to the fractional part: `floor(x + u)` (Gupta 2015, arXiv 1502.02551).

    Args:
        x: any shape, in units of the step.
        noise: `u` uniform in [0, 1), broadcastable to `x`.

    >>> round_stochastic(torch.tensor([0.25, -1.0]), torch.tensor([0.8, 0.8])).tolist()
    [1.0, -1.0]
    """
    return torch.floor(x + noise)


class NoiseKey(NamedTuple):
    """What the noise of one tensor depends on, besides the place of each value in it.

    Attributes:
        seed: of the step, in [0, 2^63). An int64 `(1,)` tensor on the CPU inside compiled code, which would be compiled
            anew for each other number.
        stream: which tensor of the step; likewise.
    """

    seed: int | Tensor
    stream: int | Tensor = 0

    @classmethod
    def of(cls, *counters: int) -> NoiseKey:
        """Key from counters; their order matters."""
        return cls(counter_seed(counters))

    @property
    def halves(self) -> tuple[int, int]:
        """Both halves of the seed, as signed 32-bit numbers."""
        seed = int(self.seed)
        return signed(seed), signed(seed >> 32)

    def words(self) -> tuple[int, int]:
        """The two 32-bit words that enter the hash of each pair of values."""
        low, high = self.halves
        first = mixed(low ^ (int(self.stream) * GOLDEN))
        return first, mixed(high + first)

    def bits(self, shape: torch.Size, device: torch.device | str = "cpu") -> Tensor:
        """Noise of a whole tensor: int16 `r` in [-2^15, 2^15); the noise in [0, 1) is `(r + 2^15) / 2^16`."""
        if torch.device(device).type != "cpu":
            return device_part(*self.words(), shape.numel(), torch.device(device)).view(shape)
        out = torch.empty(shape, dtype=torch.int16, device="cpu")
        for start, piece in enumerate(out.view(-1).split(PIECE)):
            piece.copy_(self.part(start * PIECE, len(piece)))
        return out

    def part(self, start: int, count: int) -> Tensor:
        """int16 `(count,)` on the CPU: the noise of values `start ... start + count` in row-major order.

        NumPy shifts unsigned numbers as they are; PyTorch would need three passes for each shift.
        """
        first, second = map(np.uint32, self.words())
        before, end = start >> 1, (start + count + 1) >> 1
        count_from_zero = places if end - before <= PIECE else places.__wrapped__
        word = count_from_zero(end - before) + np.uint32(before & MASK)
        word ^= first
        shifted = np.empty_like(word)
        word ^= np.right_shift(word, 16, out=shifted)
        word *= np.uint32(FIRST)
        word += second
        word ^= np.right_shift(word, 15, out=shifted)
        word *= np.uint32(SECOND)
        word ^= np.right_shift(word, 16, out=shifted)
        bits = word.view(np.int16)[start & 1 : (start & 1) + count]
        return torch.from_numpy(bits)  # on the CPU: as NumPy is


@lru_cache(maxsize=4)
def places(count: int) -> np.ndarray:
    """`0 ... count - 1` as uint32; small ones are kept."""
    return np.arange(count, dtype=np.uint32)


def device_part(first: int, second: int, count: int, device: torch.device) -> Tensor:
    """What `NoiseKey.part` gives from value 0 on, by PyTorch's operations: for a GPU without Triton."""
    word = torch.arange((count + 1) >> 1, dtype=torch.int32, device=device).bitwise_xor_(signed(first))
    xor_shift_(word, 16).mul_(FIRST).add_(signed(second))
    xor_shift_(word, 15).mul_(signed(SECOND))
    return xor_shift_(word, 16).view(torch.int16)[:count]


def xor_shift_(word: Tensor, bits: int) -> Tensor:
    """`word ^ (word >> bits)` of int32 taken as unsigned, in place (the shift alone would keep the sign)."""
    return word.bitwise_xor_(word.bitwise_right_shift(bits).bitwise_and_((1 << (32 - bits)) - 1))


def mixed(word: int) -> int:
    """Hash of a 32-bit word, in [0, 2^32)."""
    word &= MASK
    word = ((word ^ (word >> 16)) * FIRST) & MASK
    word = ((word ^ (word >> 15)) * SECOND) & MASK
    return word ^ (word >> 16)


def signed(word: int) -> int:
    """The lowest 32 bits as a signed number.

    >>> signed(0xFFFFFFFF), signed(5)
    (-1, 5)
    """
    return ((word + 0x80000000) & MASK) - 0x80000000


def uniform_noise(
    shape: torch.Size | tuple[int, ...], key: NoiseKey, device: torch.device | str = "cpu"
) -> Tensor:
    """Uniform float32 noise in [0, 1) on a grid of 2^-16: `key.bits` as floats.

    Args:
        shape: of the result.
        key: what it depends on.
        device: where to draw; the bits are the same everywhere.
    """
    return key.bits(torch.Size(shape), device).to(torch.float32).add_(2.0**15).mul_(NOISE_STEP)
