"""Activations with a range for each frame, taken when they are computed (token-wise: ZeroQuant, arXiv 2206.01861, 4.1).

Speech frames differ in energy by orders of magnitude. Where a normalisation behind the layers brings the quiet ones up
again, as in a Wav2Vec2's feature extractor, one range for all leaves those a few levels; here each row of the matrix
product, a frame or the window of a convolution, has all of them. The product of a row is `s (q W) - s z (1 W)`, and
`1 W` is known beforehand. Zero is always in the range, so that the range of a window is that of its frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.quantizer import Quantizer
from qat.numerics.affine import dynamic_range
from qat.numerics.rounding import noise_bits
from qat.system.errors import UserError


class FrameQuantizer(Quantizer):
    """Quantizes rows of `(..., I)`, each from its smallest to its largest value; it has no range to calibrate.

    The gradient passes straight through: nothing is clipped by more than half a step.

    Args:
        recipe: of the layer; bits and rounding count.
    """

    def __init__(self, recipe: LayerRecipe) -> None:
        bits = recipe.activation_bits or 8
        super().__init__(
            0, 2**bits - 1, signed=False, observer="max", stochastic=recipe.rounding == "stochastic"
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x` on its rows' levels, or untouched while disabled."""
        if not self.is_enabled:
            return x
        with torch.no_grad():
            levels, scale, zero_point = self.levels(x.detach())
            rounded = levels.sub_(zero_point).mul_(scale).to(x.dtype)
        return x + (rounded - x).detach() if x.requires_grad else rounded

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whole levels as float32 `(..., I)`, and the step and zero point (whole, float32) of each row `(..., 1)`."""
        x = x.float()
        scale, zero_point = dynamic_range(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), self.quant_max)
        levels = x / scale
        if self.training and self.stochastic:
            noise = noise_bits(x.shape, self.key(0), x.device).float().add_(2**15).div_(2**16)
            levels = levels.add_(noise).floor_()
        else:
            levels = levels.round_()
        return levels.add_(zero_point).clamp_(0, self.quant_max), scale, zero_point

    def finish_calibration_(self, name: str) -> None:
        """Nothing to choose."""
        self.calibrated.fill_(1)


def by_frame(layer: nn.Module) -> bool:
    """Whether a layer's input has a range for each frame."""
    return isinstance(getattr(layer, "input_quantizer", None), FrameQuantizer)


def check_frames(name: str, layer: nn.Module, recipe: LayerRecipe) -> None:
    """Refuse a layer that cannot have a range for each frame.

    Raises:
        UserError: naming the layer and what is allowed.
    """
    if recipe.activation_granularity != "frame" or not recipe.activation_bits:
        return
    fits = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv1d) and layer.groups == 1)
    if not fits or not recipe.weight_bits:
        kind = f"{type(layer).__name__}{' of groups' if getattr(layer, 'groups', 1) > 1 else ''}"
        raise UserError(
            f"{name}: activation_granularity frame is for linear layers and convolutions along time without groups, "
            f"with quantized weights; this is a {kind} with {recipe.weight_bits or 'float'}-bit weights. A rule with "
            "activation_granularity: tensor leaves it out"
        )


def padding_of(layer: nn.Conv1d | nn.Conv2d) -> tuple[list[int], str]:
    """A convolution's padding as `F.pad` takes it: both ends of each axis, the last axis first, and the mode."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return list(layer._reversed_padding_repeated_twice), mode


def windows_of(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """What each output position of a convolution without groups multiplies: `(B, C, T)` -> `(B, T', K C)`."""
    sides, mode = padding_of(layer)
    x = F.pad(x, sides, mode=mode) if any(sides) else x
    x, (count,), (step,), (stride,) = x.transpose(1, 2), layer.kernel_size, layer.dilation, layer.stride
    rest = (count - 1) * step
    taps = [x[:, tap * step : x.shape[1] - (rest - tap * step) : stride] for tap in range(count)]
    return torch.cat(taps, dim=2) if count > 1 else taps[0]


def matrix_of(weight: Tensor) -> Tensor:
    """A convolution's weight `(O, C, K)` as the `(O, K C)` that multiplies `windows_of`; a matrix as it is."""
    return weight.transpose(1, 2).flatten(1) if weight.ndim == 3 else weight


def frame_linear(
    rows: Tensor, quantizer: FrameQuantizer, weight: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """`(..., I)` -> `(..., O)` as the exported file adds: whole-number sums, rescaling, zero points, bias.

    Args:
        rows: float.
        quantizer: of the rows.
        weight: levels, whole float32 `(O, I)`.
        weight_scale: `(O,)`.
        bias: `(O,)`.
    """
    levels, scale, zero_point = quantizer.levels(rows)
    out = F.linear(levels, weight).mul_(weight_scale).mul_(scale)
    rest = (zero_point * scale) * -(weight.sum(1) * weight_scale)
    return out.add_(rest if bias is None else rest.add_(bias))
