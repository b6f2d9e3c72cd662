"""One rule of a recipe: what the layers that it matches get; and the checks of fields that rules and recipes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from qat.layer_recipe import (
    ActivationGranularity,
    FourBitLinear,
    Granularity,
    LayerFields,
    Observer,
    Rounding,
    Target,
)
from qat.system.errors import UserError
from qat.system.nearest import did_you_mean

Equalize = Literal["none", "cross_layer", "smooth"]

CHOICES: dict[str, tuple[str, ...]] = {
    "rounding": get_args(Rounding),
    "weight_observer": get_args(Observer),
    "activation_observer": get_args(Observer),
    "weight_granularity": get_args(Granularity),
    "activation_granularity": get_args(ActivationGranularity),
    "four_bit_linear": get_args(FourBitLinear),
    "target": get_args(Target),
    "equalize": get_args(Equalize),
}
BOOLEANS = (
    *("quantize", "activation_signed", "learn_scale", "fine_tune"),
    *("ada_round", "bias_correction", "re_estimate_batch_norm", "mid_rise"),
)


@dataclass(frozen=True)
class Rule:
    """What the layers that `match` get; a field left null inherits the recipe's.

    Args:
        match: group of the model (`cnn`, `rnn`, `transformer`, ...) or a glob on the layer's dotted name.
        quantize: false keeps these layers float.
        weight_bits: 2 to 8; 0 keeps weights float.
        activation_bits: 2 to 8; 0 keeps activations float.
        rounding: nearest or stochastic (in training; evaluation is always nearest).
        weight_observer: max, mse, percentile or entropy.
        activation_observer: max, mse, percentile or entropy.
        percentile: share of values inside the range of the percentile observer, in (50, 100].
        weight_granularity: one scale per output channel, or one per tensor.
        activation_granularity: one range for the whole tensor, one for each frame, or dynamic (nothing calibrated).
        activation_signed: symmetric signed activations in place of unsigned ones with a zero point.
        equalize: none, cross_layer or smooth: of the channels that these layers read, where they are produced.
    """

    match: str
    quantize: bool = True
    weight_bits: int | None = None
    activation_bits: int | None = None
    rounding: Rounding | None = None
    weight_observer: Observer | None = None
    activation_observer: Observer | None = None
    percentile: float | None = None
    weight_granularity: Granularity | None = None
    activation_granularity: ActivationGranularity | None = None
    activation_signed: bool | None = None
    equalize: Equalize | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.match, str) or not self.match:
            raise UserError(f"qat.rules: match {self.match!r} must be a group or a glob on layer names")
        check_fields(self, f"rule {self.match!r}: ", optional=True)

    def matches(self, name: str, groups: Mapping[str, Sequence[str]]) -> bool:
        """Whether the layer `name` belongs to the rule's group, or fits its glob."""
        globs = groups.get(self.match, (self.match,))
        return any(fnmatchcase(name, glob) for glob in globs)


def rule_of(item: Any) -> Rule:
    """A rule from its fields.

    Raises:
        UserError: an unknown field, a value that is not allowed, or no `match`.
    """
    if isinstance(item, Rule):
        return item
    values = known_fields(Rule, item, "qat.rules")
    if "match" not in values:
        raise UserError(f"qat.rules: {item!r} must have the field match (a group or a glob on layer names)")
    return Rule(**values)


def known_fields(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as keyword arguments of the dataclass `cls`.

    Raises:
        UserError: not a mapping, or a field that `cls` does not have.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: {values!r} must be a mapping of fields")
    allowed = [item.name for item in fields(cls)]
    for key in values:
        if key not in allowed:
            near = did_you_mean(str(key), allowed)
            raise UserError(f"{where}: field {key!r} must be one of {', '.join(allowed)}{near}")
    return dict(values)


def check_fields(item: LayerFields | Rule, where: str, optional: bool) -> None:
    """Check types and ranges of all fields of a recipe or rule; `optional` fields may be None.

    Raises:
        UserError: naming field, value and what is allowed.
    """
    for name in ("weight_bits", "activation_bits", "attention_bits"):
        value = getattr(item, name, None)
        if value is not None and (type(value) is not int or (value != 0 and not 2 <= value <= 8)):
            raise UserError(f"{where}{name}: {value!r} must be 2 to 8, or null (0) for float")
    for name, choices in CHOICES.items():
        value = getattr(item, name, choices[0])
        if value not in choices and not (optional and value is None):
            raise UserError(f"{where}{name}: {value!r} must be one of {', '.join(choices)}")
    for name in BOOLEANS:
        value = getattr(item, name, False)
        if not isinstance(value, bool) and not (optional and value is None):
            raise UserError(f"{where}{name}: {value!r} must be true or false")
    for name, low, high, text in (
        ("percentile", 50.0, 100.0, "a number above 50, up to 100"),
        ("quant_noise", -1e-30, 1.0, "a number from 0 to 1"),
        ("smooth_alpha", -1e-30, 1.0, "a number from 0 to 1"),
    ):
        value = getattr(item, name, None)
        if value is None and optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
            raise UserError(f"{where}{name}: {value!r} must be {text}")
