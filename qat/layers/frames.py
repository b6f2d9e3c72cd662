"""Activations with a range for each frame, taken when they are computed (token-wise: ZeroQuant, arXiv 2206.01861, 4.1).

Speech frames differ in energy by orders of magnitude. Where a normalisation after the layers brings the quiet ones up
again, as in a Wav2Vec2's feature extractor, one range for all leaves those a few levels; here each row of the matrix
product, a frame or the window of a convolution, has all of them. The product of a row is `s (q W - z (1 W))`, and
`1 W` is known beforehand. Zero is always in the range, so that the range of a window is that of its frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.layer_recipe import LayerRecipe
from qat.layers.quantizer import KeyedNoise, Quantizer
from qat.numerics import fused
from qat.numerics.affine import dynamic_range
from qat.numerics.rounding import NoiseKey, uniform_noise
from qat.numerics.traced import is_compiled, key_of


class FrameQuantizer(Quantizer):
    """Quantizes rows of `(..., I)`, each from its smallest to its largest value; it has no range to calibrate.

    The gradient passes straight through: nothing is clipped by more than half a step.

    Args:
        recipe: of the layer; bits and rounding count.
    """

    noise: KeyedNoise
    obsolete = ("scale", "zero_point", "observer.")

    def __init__(self, recipe: LayerRecipe) -> None:
        super().__init__(0, 2 ** (recipe.activation_bits or 8) - 1)
        self.recipe, self.noise = recipe, KeyedNoise()

    @property
    def key(self) -> NoiseKey | None:
        """Key of the noise where it rounds stochastically now."""
        draws = self.training and self.recipe.rounding == "stochastic"
        return self.noise.of() if draws else None

    def fake_quantize(self, x: Tensor) -> Tensor:
        """`x` on its rows' levels."""
        dtype = fused.working_dtype(x) if fused.applies(x) else x.dtype
        if is_compiled():
            seed, stream = self.key or (None, None)
            values = frames_operator(x.detach(), self.quant_max, seed, stream, dtype)
        else:
            values = quantize_frames(x.detach(), self.quant_max, self.key, dtype)
        return fused.straight_through(x, values)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `frame_levels`."""
        return frame_levels(x, self.quant_max, self.key)

    def linear(self, x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
        """`(..., I)` -> `(..., O)` as the exported file adds: whole-number sums less zero points, rescaling, bias.

        Args:
            x: float rows.
            weight: levels, whole float32 `(O, I)`.
            weight_scale: `(O,)`.
            bias: `(O,)`.
        """
        levels, scale, zero_point = self.levels(x)
        sums = F.linear(levels, weight).sub_(zero_point * weight.sum(1))
        out = sums.mul_(weight_scale).mul_(scale)
        return out if bias is None else out.add_(bias)


def frame_levels(x: Tensor, largest: int, key: NoiseKey | None) -> tuple[Tensor, Tensor, Tensor]:
    """Whole levels as float32 `(..., I)`, and the step and zero point (whole, float32) of each row `(..., 1)`.

    Args:
        x: rows `(..., I)`.
        largest: level.
        key: of the noise; None rounds to nearest.
    """
    x = x.float()
    scale, zero_point = dynamic_range(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), largest)
    levels = x / scale
    levels = levels.round_() if key is None else levels.add_(uniform_noise(x.shape, key, x.device)).floor_()
    return levels.add_(zero_point).clamp_(0, largest), scale, zero_point


@torch.no_grad()
def quantize_frames(x: Tensor, largest: int, key: NoiseKey | None, dtype: torch.dtype) -> Tensor:
    """Rows `(..., I)` on their levels, of `dtype`."""
    if fused.applies(x):
        return fused.quantize_frames(x.contiguous(), largest, key, dtype)
    levels, scale, zero_point = frame_levels(x, largest, key)
    return levels.sub_(zero_point).mul_(scale).to(dtype)


@torch.library.custom_op("speech_qat::quantize_frames", mutates_args=())
def frames_operator(
    x: Tensor, largest: int, seed: Tensor | None, stream: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """`quantize_frames`, which compiled code does not look into."""
    return quantize_frames(x, largest, key_of(seed, stream), dtype).contiguous()


@frames_operator.register_fake
def _(x: Tensor, largest: int, seed: Tensor | None, stream: Tensor | None, dtype: torch.dtype) -> Tensor:
    return torch.empty(x.shape, dtype=dtype, device=x.device)
