"""What every quantizer is: the protocol that layers, methods and export read, and the noise of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.shared import Shared
from qat.numerics.rounding import NoiseKey
from qat.numerics.scales import magnitude
from qat.numerics.traced import is_compiled
from qat.system.seeds import counter_seed

ROUNDING, SELECTION = 0, 1  # what noise is drawn for


@dataclass(eq=False)
class StepKey:
    """Counter shared by all quantizers of a model: what their noise depends on, besides their own index.

    Args:
        seed: of the recipe.
        step: optimiser step; the trainer advances it.
        rank: of this process; weights leave it out, so that all ranks train the same weights.
        frame: of a loop over time within the step, from 1 on; activations draw other noise in each. 0 outside.
    """

    seed: int = 0
    step: int = 0
    rank: int = 0
    frame: int = 0
    written: list[Tensor] = field(
        default_factory=lambda: [int64_(0), int64_(0)], repr=False
    )  # for compiled code: of activations, and of weights

    def seed_of(self, of_weight: bool) -> int | Tensor:
        """Seed of this step's noise; for compiled code, the tensor that `write_` filled."""
        if is_compiled():
            return self.written[int(of_weight)]
        if self.frame and not of_weight:
            return step_seed(self.seed, self.step, self.rank, self.frame)
        return step_seed(self.seed, self.step, -1 if of_weight else self.rank)

    @contextmanager
    def frames(self) -> Iterator[None]:
        """Around a loop over time, which counts `frame` up at each turn."""
        before = self.frame
        try:
            yield
        finally:
            self.frame = before

    def write_(self) -> None:
        """Tell compiled code the seeds of this step."""
        for of_weight, tensor in enumerate(self.written):
            tensor.fill_(step_seed(self.seed, self.step, -1 if of_weight else self.rank))


def int64_(number: int) -> Tensor:
    """`(1,)` on the CPU: a number that compiled code reads when it runs."""
    return torch.tensor([number], dtype=torch.int64, device="cpu")


@lru_cache(maxsize=64)
def step_seed(*counters: int) -> int:
    """`counter_seed`, which every quantizer asks for at every step."""
    return counter_seed(counters)


@dataclass
class KeyedNoise:
    """Noise of one quantizer, a function of counters: a resumed or recomputed step draws the same bits.

    Args:
        of_weight: alike on all ranks.
        key: shared by the model.
        index: of the quantizer in the model.
    """

    of_weight: bool = False
    key: StepKey = field(default_factory=StepKey)
    index: int = 0
    written: list[Tensor] = field(
        default_factory=list, repr=False, compare=False
    )  # streams, for compiled code

    def number_(self, key: StepKey, index: int) -> None:
        """Take a place in a model."""
        self.key, self.index = key, index
        self.written = [int64_(self.stream(purpose)) for purpose in (ROUNDING, SELECTION)]

    def stream(self, purpose: int = ROUNDING) -> int:
        """Number of this quantizer's noise among the model's."""
        return 2 * self.index + purpose

    def of(self, purpose: int = ROUNDING) -> NoiseKey:
        """Key of this step's noise."""
        seed = self.key.seed_of(self.of_weight)
        return NoiseKey(seed, self.written[purpose] if is_compiled() else self.stream(purpose))


class Quantizer(nn.Module):
    """Fake-quantizes one tensor, or passes it on untouched while disabled.

    Subclasses give `levels` and `fake_quantize`; those of a layer's input also give `linear`.

    State, of final shape from construction on: `enabled` and `calibrated`, uint8 `()`.

    Args:
        quant_min: smallest level.
        quant_max: largest level.
    """

    enabled: Tensor
    calibrated: Tensor
    noise: KeyedNoise | None = None
    shared: Shared | None = None  # where several layers read one tensor through this quantizer
    obsolete: tuple[str, ...] = ()  # keys of older checkpoints that nothing reads any more

    def __init__(self, quant_min: int, quant_max: int) -> None:
        super().__init__()
        self.quant_min, self.quant_max = quant_min, quant_max
        self.observing = False
        self.is_enabled = False  # mirrors the buffer, so that forward never waits for a GPU
        self.register_buffer("enabled", torch.zeros((), dtype=torch.uint8))  # on the CPU: moves along
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.uint8))  # on the CPU: likewise

    @property
    def is_active(self) -> bool:
        """Whether it quantizes and does not only watch."""
        return self.is_enabled and not self.observing

    def forward(self, x: Tensor) -> Tensor:
        """`x` on its levels (any float dtype; computed in float32), or untouched while disabled."""
        if self.shared is None or is_compiled():  # a compiler finds the common work itself
            return self.pass_on(x)
        seed = self.noise and self.noise.key.seed_of(self.noise.of_weight)
        state = (self.training, self.is_enabled, self.observing, seed)
        return self.shared(self.pass_on, x, state)

    def pass_on(self, x: Tensor) -> Tensor:
        """What `forward` gives, computed anew."""
        return self.fake_quantize(x) if self.is_enabled else x

    def fake_quantize(self, x: Tensor) -> Tensor:
        """`x` on its levels, whether enabled or not."""
        raise NotImplementedError

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whole levels `q` as float32, scale and zero point: the values are `scale (q - zero_point)`."""
        raise NotImplementedError

    def finish_calibration_(self, name: str) -> None:
        """Choose the range from what was observed; here there is none to choose.

        Raises:
            UserError: nothing was observed, or NaN or infinity was; says `name`.
        """
        self.calibrated.fill_(1)

    def set_enabled_(self, enabled: bool) -> None:
        """Switch on or off."""
        self.enabled.fill_(int(enabled))
        self.is_enabled = enabled

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in [
            key for key in state_dict if key.removeprefix(prefix).startswith(self.obsolete or ("\0",))
        ]:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.is_enabled = bool(self.enabled)


class ScaledQuantizer(Quantizer):
    """A quantizer that keeps its scale.

    State besides a quantizer's: `scale` float32, a Parameter where it is learned (LSQ, arXiv 1902.08153).

    Args:
        quant_min: smallest level.
        quant_max: largest level.
        recipe: of the layer.
        scales: how many.
        noise: of stochastic rounding.
    """

    scale: Tensor
    noise: KeyedNoise

    def __init__(
        self, quant_min: int, quant_max: int, recipe: LayerRecipe, scales: int, noise: KeyedNoise
    ) -> None:
        super().__init__(quant_min, quant_max)
        self.recipe, self.noise = recipe, noise
        if recipe.learn_scale:
            self.scale = nn.Parameter(torch.ones(scales))  # on the CPU: moves with the layer
        else:
            self.register_buffer("scale", torch.ones(scales))  # on the CPU: likewise

    def positive_scale(self) -> Tensor:
        """The scale; a learned one is kept positive."""
        return magnitude(self.scale) if self.recipe.learn_scale else self.scale

    def raw_scale(self) -> Tensor:
        """The scale as `fake_quantize` takes it, which keeps one that requires a gradient positive itself."""
        return self.scale if self.scale.requires_grad else self.positive_scale()

    def rounding_noise(self) -> NoiseKey | None:
        """Noise of this step's stochastic rounding; None rounds to nearest."""
        return self.noise.of() if self.recipe.rounding == "stochastic" else None

    def extra_repr(self) -> str:
        """Levels, scales, rounding and switch."""
        state, scales = "on" if self.is_enabled else "off", self.scale.numel()
        return f"[{self.quant_min}, {self.quant_max}], {scales} scales, {self.recipe.rounding}, {state}"


class Unquantized(nn.Identity):
    """The side of a layer that stays float, where a quantizer would stand."""

    is_enabled = False
    is_active = False
    observing = False
    floor: float | None = None
