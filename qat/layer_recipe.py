"""The recipe of one layer, resolved: its bits, levels, observers and rounding."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Rounding = Literal["nearest", "stochastic"]
Observer = Literal["max", "mse", "percentile", "entropy"]
Granularity = Literal["channel", "tensor"]
FourBitLinear = Literal["matmul_nbits", "integer"]

MID_RISE_BITS = (
    3  # above, zero as a level is worth more than one level more; 4-bit kernels have no half steps
)


@dataclass(frozen=True)
class LayerRecipe:
    """The resolved recipe of one layer; bits of None keep that side float."""

    weight_bits: int | None = 8
    activation_bits: int | None = 8
    rounding: Rounding = "nearest"
    weight_observer: Observer = "mse"
    activation_observer: Observer = "mse"
    percentile: float = 99.99
    weight_granularity: Granularity = "channel"
    activation_signed: bool = False
    reduce_range: bool = False
    mid_rise: bool = True
    four_bit_linear: FourBitLinear = "matmul_nbits"
    learn_scale: bool = False
    quant_noise: float = 0.0
    ada_round: bool = False

    @property
    def packs_linear(self) -> bool:
        """Whether a linear layer runs on 4-bit weights as they are stored, its activations in blocks."""
        bits = (self.weight_bits, self.activation_bits)
        return bits == (4, 8) and self.four_bit_linear == "matmul_nbits" and not self.activation_signed

    @property
    def weight_quant_max(self) -> int:
        """Largest weight level: 2^(b-1) - 1; 63 at 8 bits with a reduced range."""
        bits = self.weight_bits or 8
        return 63 if bits == 8 and self.reduce_range else 2 ** (bits - 1) - 1

    @property
    def weight_quant_min(self) -> int:
        """Smallest weight level; symmetric: -2^(b-1) is used only where levels lie between the whole steps."""
        return -self.weight_quant_max - (1 if self.weight_offset else 0)

    @property
    def weight_offset(self) -> float:
        """Steps that the weight levels lie above the whole ones: a half (mid-rise, at 2 and 3 bits) or none."""
        return 0.5 if self.mid_rise and (self.weight_bits or 8) <= MID_RISE_BITS else 0.0

    @property
    def activation_quant_min(self) -> int:
        """Smallest activation level: 0, or -(2^(b-1) - 1) when signed."""
        return -self.activation_quant_max if self.activation_signed else 0

    @property
    def activation_quant_max(self) -> int:
        """Largest activation level: 2^b - 1, or 2^(b-1) - 1 when signed."""
        bits = self.activation_bits or 8
        return 2 ** (bits - 1) - 1 if self.activation_signed else 2**bits - 1


@cache
def cpu_has_vnni() -> bool:
    """Whether u8 x s8 products add up without saturating on this CPU (x86 VNNI; Arm has no such trap)."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False  # unknown: the reduced range is right everywhere
    return "avx512_vnni" in words or "avx_vnni" in words
