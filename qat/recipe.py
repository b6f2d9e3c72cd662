"""What a recipe may say: which layers get which bits, and how their ranges and rounding are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from qat.layer_recipe import (  # the types of inherited fields as well: `Recipe.__init__` is read with them
    ActivationGranularity,  # noqa: F401
    FourBitLinear,  # noqa: F401
    Granularity,  # noqa: F401
    LayerFields,
    LayerRecipe,
    Observer,  # noqa: F401
    Rounding,  # noqa: F401
    Target,  # noqa: F401
)
from qat.rule import Equalize, Rule, check_fields, known_fields, rule_of
from qat.system.errors import UserError
from qat.system.hardware import cpu_has_vnni
from qat.system.nearest import did_you_mean

ReduceRange = bool | Literal["auto", "true", "false"]
FoldBatchNorm = bool | Literal["after_calibration"]


@dataclass(frozen=True)
class Recipe(LayerFields):
    """Which layers are quantized, to how many bits, and how.

    Args:
        preset: name of the preset it came from; `off` quantizes nothing.
        reduce_range: 7-bit weight range at 8 bits; auto where the CPU lacks VNNI (u8s8 products saturate there).
        fold_batch_norm: fold BatchNorm into the layer before it, before calibration; after_calibration is the wrong
            order (ranges are those of other weights), kept to measure what it costs.
        equalize: scale channels down where they are produced and up where they are read, before calibration, so that a
            few large ones do not take the levels of all (float output unchanged). cross_layer goes by the weights
            alone (Nagel 2019, arXiv 1906.04721), smooth by the largest activation of each channel in the calibration
            utterances as well (SmoothQuant, arXiv 2211.10438).
        smooth_alpha: share of a channel's range that smooth moves from the activations into the weights, in [0, 1].
        fine_tune: train after calibration; false stops there (post-training quantization).
        ada_round_steps: optimiser steps per layer; 0 leaves coordinate descent alone.
        bias_correction: take the mean error of each output out of the bias (Nagel 2019, arXiv 1906.04721): after
            AdaRound in all layers but the last, else where that brings the posteriors nearer to the float model's.
        reconstruction_utterances: training utterances that AdaRound and bias correction read.
        re_estimate_batch_norm: measure the statistics of unfolded BatchNorm again after training (arXiv 2203.11086).
        calibration_utterances: training utterances that calibrate the activations.
        seed: of calibration draw and stochastic rounding.
        rules: the first rule that matches a layer wins; the fields above are the last rule.
    """

    preset: str = "off"
    reduce_range: ReduceRange = "auto"
    fold_batch_norm: FoldBatchNorm = True
    equalize: Equalize = "none"
    smooth_alpha: float = 0.5
    fine_tune: bool = True
    ada_round_steps: int = 1000
    bias_correction: bool = False
    reconstruction_utterances: int = 128
    re_estimate_batch_norm: bool = False
    calibration_utterances: int = 256
    seed: int = 0
    rules: list[Rule] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_fields(self, "qat.", optional=False)
        check_recipe(self)
        object.__setattr__(self, "rules", [rule_of(item) for item in (self.rules or [])])
        self.check_target()

    @property
    def active(self) -> bool:
        """Whether anything is quantized at all."""
        return self.preset != "off"

    def to_dict(self) -> dict[str, Any]:
        """Builtins only, which any checkpoint and YAML file can hold; `from_dict` inverts it.

        >>> Recipe.from_dict(Recipe(preset="mine", rules=[Rule("cnn", weight_bits=4)]).to_dict()).rules[0].weight_bits
        4
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Recipe from builtins.

        Raises:
            UserError: an unknown field, or a value that is not allowed.
        """
        return cls(**known_fields(cls, values, "qat"))

    def resolved(self) -> Recipe:
        """`reduce_range` settled to a bool (`auto` by this machine's CPU); idempotent."""
        reduce = {"auto": None, "true": True, "false": False}.get(str(self.reduce_range).lower())
        return replace(self, reduce_range=not cpu_has_vnni() if reduce is None else reduce)

    def for_layer(self, name: str, groups: Mapping[str, Sequence[str]]) -> LayerRecipe | str:
        """The recipe of one layer, or the reason why it stays float.

        Args:
            name: dotted name of the layer in the model.
            groups: name of a group of layers -> globs on dotted names.

        >>> Recipe(preset="x", rules=[Rule("head", quantize=False)]).for_layer("head", {})
        'excluded by the recipe'
        """
        if not self.active:
            return "the recipe is off"
        return self.of_rule(self.rule_for(name, groups))

    def rule_for(self, name: str, groups: Mapping[str, Sequence[str]]) -> Rule:
        """The first rule that matches a layer; one that says nothing where none does."""
        return next((rule for rule in self.rules if rule.matches(name, groups)), Rule("*"))

    def of_rule(self, rule: Rule) -> LayerRecipe | str:
        """The recipe of a layer that a rule matches, or the reason why it stays float."""
        if not rule.quantize:
            return "excluded by the recipe"
        chosen = {item.name: getattr(self, item.name) for item in fields(LayerFields)}
        chosen |= {key: value for key, value in vars(rule).items() if key in chosen and value is not None}
        if not chosen["weight_bits"] and not chosen["activation_bits"]:
            return "the recipe gives it neither weight nor activation bits"
        chosen |= {key: chosen[key] or None for key in ("weight_bits", "activation_bits")}
        chosen["activation_signed"] |= self.target == "tensorrt"
        return LayerRecipe(**chosen, reduce_range=bool(self.resolved().reduce_range))

    def equalize_of(self, name: str, groups: Mapping[str, Sequence[str]]) -> Equalize:
        """How the channels that one layer reads are evened out.

        >>> Recipe(preset="x", rules=[Rule("head", equalize="smooth")]).equalize_of("head", {})
        'smooth'
        """
        rule = self.rule_for(name, groups)
        return self.equalize if rule.equalize is None else rule.equalize

    @property
    def equalizes(self) -> bool:
        """Whether the channels of any layer are evened out."""
        named = (self.equalize, *(rule.equalize for rule in self.rules))
        return any(method not in (None, "none") for method in named)

    @property
    def leaves_kernel_open(self) -> bool:
        """Whether a layer may run on 4-bit weights by either kernel, and `auto` is to choose."""
        layers = [self.of_rule(rule) for rule in (*self.rules, Rule("*"))] if self.active else []
        packed = [replace(x, four_bit_linear="matmul_nbits") for x in layers if isinstance(x, LayerRecipe)]
        return self.four_bit_linear == "auto" and any(layer.packs_linear for layer in packed)

    def check_target(self) -> None:
        """Refuse what the target has no arithmetic for.

        Raises:
            UserError: naming the field or rule, its value and what is allowed.
        """
        if self.target != "onnxruntime" and self.four_bit_linear == "matmul_nbits":
            raise UserError(
                f"qat.four_bit_linear: 'matmul_nbits', must be auto or integer with target {self.target}"
            )
        for item in (self, *self.rules) if self.target == "tensorrt" else ():
            where = f"rule {item.match!r}: " if isinstance(item, Rule) else "qat."
            for name, allowed in (
                ("activation_granularity", (None, "tensor")),
                ("activation_bits", (None, 0, 8)),
            ):
                if (value := getattr(item, name)) not in allowed:
                    text = " or ".join(map(str, allowed[1:]))
                    raise UserError(f"{where}{name}: {value!r}, must be {text} with qat.target tensorrt")

    def check_rules(self, names: Iterable[str], groups: Mapping[str, Sequence[str]]) -> None:
        """Refuse rules that no layer of `names` fits.

        Raises:
            UserError: naming the rule and what it could have matched.
        """
        names = list(names)
        for rule in self.rules:
            if not any(rule.matches(name, groups) for name in names):
                near = did_you_mean(rule.match, [*groups, *names])
                raise UserError(
                    f"qat.rules: {rule.match!r} matches no layer; must be a group ({', '.join(groups) or 'none'}) or a "
                    f"glob on names like {', '.join(names[:3]) or '(none)'}{near}"
                )


def check_recipe(recipe: Recipe) -> None:
    """Check the fields that rules do not have.

    Raises:
        UserError: naming field, value and what is allowed.
    """
    if not isinstance(recipe.preset, str) or not recipe.preset:
        raise UserError(f"qat.preset: {recipe.preset!r} must be a name")
    if not isinstance(recipe.reduce_range, bool) and recipe.reduce_range not in ("auto", "true", "false"):
        raise UserError(f"qat.reduce_range: {recipe.reduce_range!r} must be auto, true or false")
    folding = recipe.fold_batch_norm
    if not isinstance(folding, bool) and folding != "after_calibration":
        raise UserError(f"qat.fold_batch_norm: {folding!r} must be true, false or after_calibration")
    for name, least in (
        ("calibration_utterances", 1),
        ("reconstruction_utterances", 1),
        ("ada_round_steps", 0),
        ("seed", 0),
    ):
        value = getattr(recipe, name)
        if type(value) is not int or not least <= value < 2**63:
            raise UserError(f"qat.{name}: {value!r} must be a whole number from {least}, below 2^63")
    if not isinstance(recipe.rules, list | tuple | None):
        raise UserError(f"qat.rules: {recipe.rules!r} must be a list of rules")
