"""The module that quantizes one tensor: its scale, its observer, and its rounding noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.observer import Observer
from qat.numerics.ada_round import first_variable, hard_round
from qat.numerics.affine import SCALE_FLOOR, along, fake_quantize
from qat.numerics.histogram import BINS
from qat.numerics.ranges import histogram_range, symmetric_range, weight_magnitude
from qat.numerics.rounding import noise_bits
from qat.system.errors import UserError

CELL = 0.25  # of a step: nearer to its level, a weight does not flip at the first noise of training


@dataclass
class StepKey:
    """Counter shared by all quantizers of a model: what their noise depends on, besides their own index.

    Args:
        seed: of the recipe.
        step: optimiser step; the trainer advances it.
        rank: of this process; weights leave it out, so that all ranks train the same weights.
    """

    seed: int = 0
    step: int = 0
    rank: int = 0


class Quantizer(nn.Module):
    """Fake-quantizes one tensor, or passes it on untouched while disabled.

    State (final shapes from construction on): `scale` float32 and `zero_point` int32, `(1,)` or `(C,)`; `enabled`
    and `calibrated` uint8 `()`. `scale` is a Parameter where it is learned. With AdaRound also `rounding`, its
    variable, float32 of the weight's shape, and `rounds` uint8 `()`: whether `rounding` decides instead of nearest.

    Args:
        quant_min: smallest level.
        quant_max: largest level.
        channels: scales; 1 for the whole tensor.
        axis: dimension that `scale` runs along; None for one scale.
        signed: symmetric, with zero point 0; else any range that holds zero.
        observer: max, mse, percentile or entropy.
        percentile: for that observer, in percent.
        stochastic: round stochastically in training.
        learn_scale: make `scale` a Parameter (LSQ).
        quant_noise: share of the weight quantized at each training step (Fan 2020, arXiv 2004.07320); 0: all.
        is_weight: a weight (calibrated from itself, noise alike on all ranks) or an activation (observed).
        time_axis: of an activation, negative; padding there is left out of the histogram.
        rounding_shape: shape of the weight, to hold an AdaRound variable; None: it is rounded to nearest.
        level_offset: steps that all levels lie above the whole ones; 0 or a half.
    """

    rounding: Tensor
    rounds: Tensor
    scale: Tensor
    zero_point: Tensor
    enabled: Tensor
    calibrated: Tensor

    def __init__(
        self,
        quant_min: int,
        quant_max: int,
        channels: int = 1,
        axis: int | None = None,
        signed: bool = True,
        observer: str = "mse",
        percentile: float = 99.99,
        stochastic: bool = False,
        learn_scale: bool = False,
        quant_noise: float = 0.0,
        is_weight: bool = False,
        time_axis: int = -1,
        rounding_shape: torch.Size | None = None,
        level_offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.quant_min, self.quant_max, self.level_offset = quant_min, quant_max, level_offset
        self.axis, self.signed = axis, signed
        self.observer_name, self.percentile = observer, percentile
        self.stochastic, self.learn_scale, self.quant_noise = stochastic, learn_scale, quant_noise
        self.is_weight, self.time_axis = is_weight, time_axis
        self.floor: float | None = None  # observed values below it count as it: what follows ignores them
        self.index = 0
        self.step_key = StepKey()
        self.observing = False
        self.is_enabled = False  # mirrors the buffer, so that forward never waits for a GPU
        scale = torch.ones(channels)
        if learn_scale:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("enabled", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.uint8))
        self.is_rounded = False  # mirrors `rounds`
        if rounding_shape is not None:
            self.register_buffer("rounding", torch.zeros(rounding_shape))
            self.register_buffer("rounds", torch.zeros((), dtype=torch.uint8))
        if not is_weight:
            self.observer = Observer(0 if observer == "max" else BINS)

    @classmethod
    def for_weight(cls, weight: Tensor, recipe: LayerRecipe) -> Quantizer:
        """Symmetric quantizer of a weight `(C, ...)`, per output channel or per tensor."""
        per_channel = recipe.weight_granularity == "channel"
        return cls(
            recipe.weight_quant_min,
            recipe.weight_quant_max,
            channels=weight.shape[0] if per_channel else 1,
            axis=0 if per_channel else None,
            observer=recipe.weight_observer,
            percentile=recipe.percentile,
            stochastic=recipe.rounding == "stochastic",
            learn_scale=recipe.learn_scale,
            quant_noise=recipe.quant_noise,
            is_weight=True,
            rounding_shape=weight.shape if recipe.ada_round else None,
            level_offset=recipe.weight_offset,
        ).to(weight.device)

    @classmethod
    def for_activation(cls, recipe: LayerRecipe, time_axis: int, device: torch.device) -> Quantizer:
        """Quantizer of a layer's input, one scale."""
        return cls(
            recipe.activation_quant_min,
            recipe.activation_quant_max,
            signed=recipe.activation_signed,
            observer=recipe.activation_observer,
            percentile=recipe.percentile,
            stochastic=recipe.rounding == "stochastic",
            learn_scale=recipe.learn_scale,
            time_axis=time_axis,
        ).to(device)

    @property
    def bits(self) -> int:
        """Bits that the levels fill."""
        return (self.quant_max - self.quant_min).bit_length()

    @property
    def follows_weight(self) -> bool:
        """Whether training refreshes the scale from the weight at every forward."""
        return self.is_weight and self.observer_name == "max" and not self.learn_scale

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize `x` (any float dtype; computed in float32), or return it untouched while disabled."""
        if self.observing:
            self.observer.observe_(x, self.time_axis)
        if not self.is_enabled:
            return x
        if self.training and self.follows_weight and not self.is_rounded:
            self.follow_(x)
        shift = self.shift(x) if self.level_offset else None
        out = self.round(x) if shift is None else self.round(x - shift) + shift
        if self.training and self.is_weight and 0 < self.quant_noise < 1 and not self.is_rounded:
            chosen = noise_bits(x.shape, self.key(1), x.device) < round(self.quant_noise * 2**16) - 2**15
            out = torch.where(chosen, out, x)
        return out

    def shift(self, x: Tensor) -> Tensor:
        """What the levels lie above whole steps, broadcastable to `x`; follows a learned scale as LSQ would have it."""
        scale = self.positive_scale()
        if scale.requires_grad:
            scale = scale.detach() + (scale - scale.detach()) * self.grad_factor(x)
        return along(self.level_offset * scale, x.ndim, self.axis).to(x.dtype)

    def round(self, x: Tensor) -> Tensor:
        """`x` on whole steps: to nearest, stochastically in training, or as AdaRound has it."""
        if self.is_rounded:
            scale = along(self.positive_scale(), x.ndim, self.axis)
            return hard_round(x.detach().float(), scale, self.rounding, self.quant_min, self.quant_max).to(
                x.dtype
            )
        if not self.training:
            return fake_quantize(
                x, self.positive_scale(), self.offset, self.quant_min, self.quant_max, self.axis
            )
        noise = noise_bits(x.shape, self.key(0), x.device) if self.stochastic else None
        return fake_quantize(
            x,
            self.positive_scale(),
            self.offset,
            self.quant_min,
            self.quant_max,
            self.axis,
            noise,
            self.grad_factor(x),
            not self.follows_weight,
        )

    @property
    def offset(self) -> Tensor | None:
        """The zero point, None where it is known to be zero."""
        return None if self.signed else self.zero_point

    def positive_scale(self) -> Tensor:
        """The scale; a learned one is kept positive."""
        return self.scale.abs().clamp(min=SCALE_FLOOR) if self.learn_scale else self.scale

    def grad_factor(self, x: Tensor) -> float:
        """LSQ's gradient scale `1 / sqrt(numel p)`, `numel` being the values that share one scale."""
        return (x.numel() / self.scale.numel() * self.quant_max) ** -0.5 if self.learn_scale else 1.0

    def key(self, purpose: int) -> tuple[int, ...]:
        """Counter key of this step's noise."""
        key = self.step_key
        return (key.seed, key.step, self.index, purpose, -1 if self.is_weight else key.rank)

    @torch.no_grad()
    def follow_(self, weight: Tensor) -> None:
        """Set the scale to the range of `weight` (max observer), in place."""
        magnitude = weight.detach().abs()
        magnitude = magnitude.flatten(1).amax(1) if self.axis == 0 else magnitude.amax().view(1)
        torch.div(magnitude, self.quant_max + self.level_offset, out=self.scale).clamp_(min=SCALE_FLOOR)

    @torch.no_grad()
    def calibrate_weight_(self, weight: Tensor, name: str) -> None:
        """Choose the scale from the weight itself.

        Raises:
            UserError: the weight holds NaN or infinity.
        """
        rows = weight.detach().flatten(1) if self.axis == 0 else weight.detach().reshape(1, -1)
        if not bool(torch.isfinite(rows).all()):
            raise UserError(f"{name}: the weight holds NaN or infinite values; it cannot be quantized")
        magnitude = weight_magnitude(
            rows, self.observer_name, self.quant_max, self.percentile, self.level_offset
        )
        self.set_range_(*symmetric_range(magnitude, self.quant_max + self.level_offset))

    @torch.no_grad()
    def finish_calibration_(self, name: str) -> None:
        """Choose scale and zero point from the histogram.

        Raises:
            UserError: nothing was observed, or NaN or infinity was.
        """
        histogram = self.observer.histogram
        low, high = float(histogram.minimum), float(histogram.maximum)
        if low == torch.inf and high == -torch.inf:
            raise UserError(f"{name}: saw no value during calibration; is the layer used?")
        if not (abs(low) < torch.inf and abs(high) < torch.inf):
            raise UserError(f"{name}: saw NaN or infinite values during calibration (range {low} to {high})")
        if self.floor is not None:
            histogram = histogram.raised(self.floor)
        self.set_range_(
            *histogram_range(
                histogram, self.observer_name, self.quant_min, self.quant_max, self.signed, self.percentile
            )
        )

    @torch.no_grad()
    def set_range_(self, scale: Tensor, zero_point: Tensor) -> None:
        """Set scale and zero point; the quantizer may then be enabled."""
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.calibrated.fill_(1)

    @torch.no_grad()
    def start_rounding_(self, weight: Tensor) -> None:
        """Set AdaRound's variable to where it rounds nothing yet; the quantizer goes on rounding to nearest."""
        scale = along(self.positive_scale(), weight.ndim, self.axis)
        self.rounding.copy_(first_variable(weight.float() / scale - self.level_offset))

    @torch.no_grad()
    def set_rounding_(self, up: Tensor) -> None:
        """Round up where `up` (bool, the weight's shape) says so and down elsewhere, from now on."""
        self.rounding.copy_(torch.where(up, 1.0, -1.0) * self.rounding.abs().clamp(min=1e-6))
        self.rounds.fill_(1)
        self.is_rounded = True

    @torch.no_grad()
    def harden_(self, weight: Tensor) -> None:
        """Move `weight` to within `CELL` steps of the level that AdaRound gave it, so that training can go on from it.

        Rounding to nearest then gives the same levels. Weights at the edge of their level would flip back at once (and
        lose what AdaRound won), weights in its middle would have half a step to go before training changed anything.
        """
        if self.is_rounded:
            scale = along(self.positive_scale(), weight.ndim, self.axis)
            share = weight / scale - self.level_offset
            levels = (self(weight) / scale - self.level_offset).round()
            low = (levels - CELL).masked_fill(levels <= self.quant_min, -torch.inf)
            high = (levels + CELL).masked_fill(levels >= self.quant_max, torch.inf)
            inside = (share.clamp(low, high) + self.level_offset) * scale
            weight.copy_(torch.where((share < low) | (share > high), inside, weight))
            self.rounds.fill_(0)
            self.is_rounded = False

    def set_enabled_(self, enabled: bool) -> None:
        """Switch on or off."""
        self.enabled.fill_(int(enabled))
        self.is_enabled = enabled

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.is_enabled = bool(self.enabled)
        self.is_rounded = hasattr(self, "rounds") and bool(self.rounds)

    def extra_repr(self) -> str:
        """Levels, scales, observer and switch."""
        rounding = "stochastic" if self.stochastic else "nearest"
        state = "on" if self.is_enabled else "off"
        scales = f"{self.scale.numel()} scales"
        return f"[{self.quant_min}, {self.quant_max}], {scales}, {self.observer_name}, {rounding}, {state}"
