"""The quantizer of a weight: its scales, half steps, Quant-Noise, and AdaRound's choices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.held import Held
from qat.layers.quantizer import SELECTION, KeyedNoise, ScaledQuantizer
from qat.layers.weight_group import Prepared, WeightGroup
from qat.numerics import fused
from qat.numerics.ada_round import hard_round
from qat.numerics.affine import fake_quantize
from qat.numerics.fused_weights import WeightMode, least_of
from qat.numerics.ranges import symmetric_range, weight_magnitude
from qat.numerics.scales import SCALE_FLOOR, along, lsq_factor
from qat.numerics.traced import is_compiled
from qat.system.errors import UserError

MARGIN = 0.25  # of a step: nearer to its level, a weight does not flip at the first noise of training


class AdaRounding(nn.Module):
    """For each weight, whether it is rounded up or down, once AdaRound has chosen (arXiv 2004.10568).

    State: `variable`, AdaRound's `V`, float32 of the weight's shape; `chosen` uint8 `()`: whether it decides instead
    of rounding to nearest.

    Args:
        shape: of the weight.
    """

    variable: Tensor
    chosen: Tensor

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.is_chosen = False  # mirrors the buffer
        self.register_buffer("variable", torch.zeros(shape))  # on the CPU: moves with the weight
        self.register_buffer("chosen", torch.zeros((), dtype=torch.uint8))  # on the CPU: likewise

    def forward(self, x: Tensor, scale: Tensor, quant_min: int, quant_max: int) -> Tensor:
        """`x` on the level below or above; `scale` broadcasts to it."""
        return hard_round(x.detach().float(), scale, self.variable, quant_min, quant_max).to(x.dtype)

    @torch.no_grad()
    def choose_(self, up: Tensor) -> None:
        """Round up where `up` (bool, the weight's shape) says so and down elsewhere, from now on."""
        self.variable.copy_(torch.where(up, 1.0, -1.0) * self.variable.abs().clamp(min=1e-6))
        self.set_chosen_(True)

    def set_chosen_(self, chosen: bool) -> None:
        """Decide, or leave it to rounding to nearest."""
        self.chosen.fill_(int(chosen))
        self.is_chosen = chosen

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.is_chosen = bool(self.chosen)


class WeightQuantizer(ScaledQuantizer):
    """Symmetric fake quantization of a weight `(C, ...)`, with a scale per output channel or one for all.

    State besides a scaled quantizer's: with AdaRound that of `ada_round`.

    Where the kernels run, all weights of a model are quantized together (`WeightGroup`).

    Args:
        weight: what it is for.
        recipe: of the layer.
        casts: whether the result may have autocast's dtype; cuDNN's LSTM wants all its parameters in one.
    """

    obsolete = ("zero_point",)

    def __init__(self, weight: Tensor, recipe: LayerRecipe, casts: bool = True) -> None:
        per_channel = recipe.weight_granularity == "channel"
        levels = (recipe.weight_quant_min, recipe.weight_quant_max)
        super().__init__(*levels, recipe, weight.shape[0] if per_channel else 1, KeyedNoise(of_weight=True))
        self.axis, self.level_offset = 0 if per_channel else None, recipe.weight_offset
        self.ada_round = AdaRounding(weight.shape) if recipe.ada_round else None
        self.casts = casts
        self.held: Held | None = None  # in a loop over time (`held_weights`)
        self.group, self.prepared = WeightGroup(), Prepared()
        self.group.add(self)
        self.to(weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """As any quantizer; compiled code reads what `prepare_step_` left ready, a loop what it holds."""
        if is_compiled() and self.prepared.read is not None:
            return self.prepared.read
        forward = super().forward
        return forward(x) if self.held is None else self.held.first("values", lambda: forward(x))

    def pass_on(self, x: Tensor) -> Tensor:
        """As any quantizer; from the group where the kernels run."""
        if self.is_enabled and self.is_grouped(x):
            return self.group.quantized(self, x)
        return super().pass_on(x)

    def is_grouped(self, x: Tensor) -> bool:
        """Whether the kernels quantize the weight `x`."""
        return fused.applies(x) and x.dtype == torch.float32 and x.is_contiguous() and not self.ada_rounded

    def mode(self, dtype: torch.dtype) -> WeightMode:
        """How the kernels quantize the weight now.

        Args:
            dtype: of the result.
        """
        recipe, training = self.recipe, self.training
        covered = training and self.follows_weight
        return WeightMode(
            low=self.quant_min,
            high=self.quant_max,
            offset=self.level_offset,
            share=recipe.quant_noise if training and 0 < recipe.quant_noise < 1 else 1.0,
            covered=covered,
            follows=covered and self.axis == 0,
            stochastic=training and recipe.rounding == "stochastic",
            learned=recipe.learn_scale,
            dtype=dtype,
        )

    @property
    def ada_rounded(self) -> bool:
        """Whether AdaRound's choices decide instead of rounding to nearest."""
        return self.ada_round is not None and self.ada_round.is_chosen

    @property
    def follows_weight(self) -> bool:
        """Whether training refreshes the scale from the weight at every forward."""
        return self.recipe.weight_observer == "max" and not self.recipe.learn_scale

    def fake_quantize(self, x: Tensor) -> Tensor:
        """To nearest or as AdaRound chose; in training as the recipe rounds, with Quant-Noise only a share."""
        if self.training and self.follows_weight and not self.ada_rounded:
            self.follow_(x)
        shift = self.shift(x) if self.level_offset else None
        out = self.on_whole_steps(x) if shift is None else self.on_whole_steps(x - shift) + shift
        if self.training and 0 < self.recipe.quant_noise < 1 and not self.ada_rounded:
            chosen = self.noise.of(SELECTION).bits(x.shape, x.device) < least_of(self.recipe.quant_noise)
            out = torch.where(chosen, out, x)
        return out

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Levels of the shape of the weight, scales `(C,)`, one per output channel, and no zero point.

        They are read off the fake-quantized weight, so they hold whatever rounding the quantizer was trained to. Levels
        between whole steps are odd numbers of half steps.
        """
        if self.held is not None:
            return self.held.first("levels", lambda: self.new_levels(x))
        return self.new_levels(x)

    def new_levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`levels`, computed anew."""
        scale = self.positive_scale().detach().float().expand(x.shape[0]).contiguous()
        scale = scale / 2 if self.level_offset else scale
        values = self.fake_quantize(x) if self.is_enabled else x
        levels = values.float().div(scale.reshape(-1, *[1] * (x.ndim - 1))).round_()
        return levels, scale, torch.zeros_like(scale)

    def shift(self, x: Tensor) -> Tensor:
        """What the levels lie above whole steps, broadcastable to `x`; follows a learned scale as LSQ would have it."""
        scale = self.positive_scale()
        if scale.requires_grad:
            factor = lsq_factor(x.numel(), scale.numel(), self.quant_max)
            scale = scale.detach() + (scale - scale.detach()) * factor
        return along(self.level_offset * scale, x.ndim, self.axis).to(x.dtype)

    def on_whole_steps(self, x: Tensor) -> Tensor:
        """`x` on whole steps: to nearest, stochastically in training, or as AdaRound chose."""
        if self.ada_round is not None and self.ada_rounded:
            scale: Tensor = along(self.positive_scale(), x.ndim, self.axis)
            return self.ada_round(x, scale, self.quant_min, self.quant_max)
        range_ = (self.raw_scale(), None, self.quant_min, self.quant_max, self.axis)
        if not self.training:
            return fake_quantize(x, *range_)
        return fake_quantize(x, *range_, self.rounding_noise(), clips=not self.follows_weight)

    @torch.no_grad()
    def follow_(self, weight: Tensor) -> None:
        """Set the scale to the range of `weight` (max observer), in place."""
        magnitude = weight.detach().abs()
        magnitude = magnitude.flatten(1).amax(1) if self.axis == 0 else magnitude.amax().view(1)
        torch.div(magnitude, self.quant_max + self.level_offset, out=self.scale).clamp_(min=SCALE_FLOOR)

    @torch.no_grad()
    def calibrate_(self, weight: Tensor, name: str) -> None:
        """Choose the scale from the weight itself.

        Raises:
            UserError: the weight holds NaN or infinity.
        """
        rows = weight.detach().flatten(1) if self.axis == 0 else weight.detach().reshape(1, -1)
        if not bool(torch.isfinite(rows).all()):
            raise UserError(f"{name}: the weight holds NaN or infinite values; it cannot be quantized")
        observer, percentile = self.recipe.weight_observer, self.recipe.percentile
        magnitude = weight_magnitude(rows, observer, self.quant_max, percentile, self.level_offset)
        self.set_scale_(symmetric_range(magnitude, self.quant_max + self.level_offset)[0])

    def finish_calibration_(self, name: str) -> None:
        """Nothing is observed: `calibrate_` chooses the scale."""

    @torch.no_grad()
    def set_scale_(self, scale: Tensor) -> None:
        """Set the scale; the quantizer may then be enabled."""
        self.scale.copy_(scale)
        self.calibrated.fill_(1)

    def scale_like(self, weight: Tensor) -> Tensor:
        """The scale of each weight, of its shape."""
        return along(self.positive_scale(), weight.ndim, self.axis).expand_as(weight)

    def ada_rounding(self) -> AdaRounding:
        """AdaRound's variable of this weight.

        Raises:
            RuntimeError: the recipe has no AdaRound.
        """
        if self.ada_round is None:
            raise RuntimeError("the recipe of this weight has no ada_round")
        return self.ada_round

    @torch.no_grad()
    def move_to_levels_(self, weight: Tensor) -> None:
        """Move `weight` to within `MARGIN` steps of the levels that AdaRound chose, and round to nearest from now on.

        Rounding to nearest then gives the same levels. Weights at the edge of their level would flip back at once (and
        lose what AdaRound won), weights in its middle would have half a step to go before training changed anything.
        """
        if self.ada_round is None or not self.ada_rounded:
            return
        scale = along(self.positive_scale(), weight.ndim, self.axis)
        share = weight / scale - self.level_offset
        levels = (self(weight) / scale - self.level_offset).round()
        low = (levels - MARGIN).masked_fill(levels <= self.quant_min, -torch.inf)
        high = (levels + MARGIN).masked_fill(levels >= self.quant_max, torch.inf)
        inside = (share.clamp(low, high) + self.level_offset) * scale
        weight.copy_(torch.where((share < low) | (share > high), inside, weight))
        self.ada_round.set_chosen_(False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for old, new in (("rounding", "ada_round.variable"), ("rounds", "ada_round.chosen")):
            if prefix + old in state_dict:  # a checkpoint of version 0.1 before its rooms
                state_dict[prefix + new] = state_dict.pop(prefix + old)
        super()._load_from_state_dict(state_dict, prefix, *args)
