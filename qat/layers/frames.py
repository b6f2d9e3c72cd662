"""Activations with a range for each frame, taken when they are computed (token-wise: ZeroQuant, arXiv 2206.01861, 4.1).

Speech frames differ in energy by orders of magnitude. Where a normalisation after the layers brings the quiet ones up
again, as in a Wav2Vec2's feature extractor, one range for all leaves those a few levels; here each row of the matrix
product, a frame or the window of a convolution, has all of them. The product of a row is `s (q W) - s z (1 W)`, and
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
from qat.numerics.rounding import uniform_noise


class FrameQuantizer(Quantizer):
    """Quantizes rows of `(..., I)`, each from its smallest to its largest value; it has no range to calibrate.

    The gradient passes straight through: nothing is clipped by more than half a step.

    Args:
        recipe: of the layer; bits and rounding count.
    """

    obsolete = ("scale", "zero_point", "observer.")

    def __init__(self, recipe: LayerRecipe) -> None:
        super().__init__(0, 2 ** (recipe.activation_bits or 8) - 1)
        self.recipe, self.noise = recipe, KeyedNoise()

    @property
    def draws(self) -> bool:
        """Whether it rounds stochastically now."""
        return self.training and self.recipe.rounding == "stochastic"

    @torch.no_grad()
    def _on_levels(self, x: Tensor) -> Tensor:
        levels, scale, zero_point = self.levels(x)
        return levels.sub_(zero_point).mul_(scale).to(x.dtype)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """`x` on its rows' levels."""
        if fused.applies(x):
            key = self.noise.of() if self.noise and self.draws else None
            return fused.straight_through(
                x, fused.quantize_frames(x.detach().contiguous(), self.quant_max, key)
            )
        return fused.straight_through(x, self._on_levels(x.detach()))

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whole levels as float32 `(..., I)`, and the step and zero point (whole, float32) of each row `(..., 1)`."""
        x = x.float()
        scale, zero_point = dynamic_range(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), self.quant_max)
        levels = x / scale
        if self.noise and self.draws:
            levels = levels.add_(uniform_noise(x.shape, self.noise.of(), x.device)).floor_()
        else:
            levels = levels.round_()
        return levels.add_(zero_point).clamp_(0, self.quant_max), scale, zero_point

    def linear(self, x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
        """`(..., I)` -> `(..., O)` as the exported file adds: whole-number sums, rescaling, zero points, bias.

        Args:
            x: float rows.
            weight: levels, whole float32 `(O, I)`.
            weight_scale: `(O,)`.
            bias: `(O,)`.
        """
        levels, scale, zero_point = self.levels(x)
        out = F.linear(levels, weight).mul_(weight_scale).mul_(scale)
        rest = (zero_point * scale) * -(weight.sum(1) * weight_scale)
        return out.add_(rest if bias is None else rest.add_(bias))
