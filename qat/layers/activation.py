"""Quantizers of an activation with one range: known beforehand, or chosen by calibration from a histogram."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.layer_recipe import LayerRecipe
from qat.layers.observer import Observer
from qat.layers.quantizer import KeyedNoise, ScaledQuantizer
from qat.numerics.affine import fake_quantize
from qat.numerics.histogram import BINS
from qat.numerics.ranges import histogram_range
from qat.system.errors import UserError


class AffineQuantizer(ScaledQuantizer):
    """Fake-quantizes an activation on one scale, symmetric or with a zero point.

    State besides a scaled quantizer's: `zero_point` int32 `(1,)`.

    Args:
        recipe: of the layer.
    """

    zero_point: Tensor
    clips = True  # False where the range holds all values: the gradient then passes everywhere

    def __init__(self, recipe: LayerRecipe) -> None:
        levels = (recipe.activation_quant_min, recipe.activation_quant_max)
        super().__init__(*levels, recipe, 1, KeyedNoise())
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))  # on the CPU: moves along

    def fake_quantize(self, x: Tensor) -> Tensor:
        """To nearest; in training as the recipe rounds."""
        range_ = (self.raw_scale(), self.offset, self.quant_min, self.quant_max)
        if not self.training:
            return fake_quantize(x, *range_, grad_factor=1.0, clips=self.clips)
        return fake_quantize(x, *range_, noise=self.rounding_noise(), clips=self.clips)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Levels of the shape of `x`; scale and zero point `(1,)`. Divides as `QuantizeLinear` does."""
        scale = self.positive_scale()
        levels = (x.float() / scale).round_().add_(self.zero_point).clamp_(self.quant_min, self.quant_max)
        return levels, scale, self.zero_point

    def linear(self, x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
        """`(..., I)` -> `(..., O)` as `MatMulIntegerToFloat` computes: whole-number sums, one rescaling, float bias.

        Args:
            x: float.
            weight: levels, whole float32 `(O, I)`.
            weight_scale: `(O,)`.
            bias: `(O,)`.
        """
        levels, scale, zero_point = self.levels(x)
        out = F.linear(levels.sub_(zero_point), weight).mul_(scale * weight_scale)
        return out if bias is None else out.add_(bias)

    @property
    def offset(self) -> Tensor | None:
        """The zero point, None where it is known to be zero."""
        return None if self.recipe.activation_signed else self.zero_point

    @torch.no_grad()
    def set_range_(self, scale: Tensor, zero_point: Tensor) -> None:
        """Set scale and zero point; the quantizer may then be enabled."""
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.calibrated.fill_(1)


class FixedQuantizer(AffineQuantizer):
    """The range (-1, 1) of a recurrent layer's hidden state, which nothing has to calibrate or learn.

    Zero is a level; the outermost ones err by half a step at -1 and 1, no more than the others.

    Args:
        recipe: of the layer.
        device: of the state.
    """

    clips = False

    def __init__(self, recipe: LayerRecipe, device: torch.device | str = "cpu") -> None:
        super().__init__(replace(recipe, learn_scale=False))
        zero_point = 0 if recipe.activation_signed else (self.quant_max + 1) // 2
        step = 2.0 / (self.quant_max - self.quant_min)
        self.set_range_(torch.tensor([step]), torch.tensor([zero_point]))  # on the CPU: moved below
        self.to(device)


class ActivationQuantizer(AffineQuantizer):
    """One range, chosen by calibration.

    State besides an affine quantizer's: the observer's, `(1,)` each.

    Args:
        recipe: of the layer.
        time_axis: negative; padding there is left out of the histogram.
        device: of the state.
    """

    def __init__(self, recipe: LayerRecipe, time_axis: int = -1, device: torch.device | str = "cpu") -> None:
        super().__init__(recipe)
        self.time_axis = time_axis
        self.floor: float | None = None  # observed values below it count as it: what follows ignores them
        self.observer = Observer(0 if recipe.activation_observer == "max" else BINS)
        self.to(device)

    def pass_on(self, x: Tensor) -> Tensor:
        """As any quantizer; while observing, the histogram takes `x` in first."""
        if self.observing:
            self.observer.observe_(x, self.time_axis)
        return super().pass_on(x)

    @torch.no_grad()
    def finish_calibration_(self, name: str) -> None:
        """Choose scale and zero point from the histogram.

        Raises:
            UserError: nothing was observed, or NaN or infinity was.
        """
        recipe, histogram = self.recipe, self.observer.histogram
        low, high = float(histogram.minimum), float(histogram.maximum)
        if low == torch.inf and high == -torch.inf:
            raise UserError(f"{name}: saw no value during calibration; is the layer used?")
        if not (abs(low) < torch.inf and abs(high) < torch.inf):
            raise UserError(f"{name}: saw NaN or infinite values during calibration (range {low} to {high})")
        if self.floor is not None:
            histogram = histogram.raised(self.floor)
        levels = (self.quant_min, self.quant_max)
        chosen = (recipe.activation_observer, *levels, recipe.activation_signed, recipe.percentile)
        self.set_range_(*histogram_range(histogram, *chosen))
