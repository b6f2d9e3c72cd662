"""How a model's scores are searched: the model's own settings, and what a user overrides of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from typing import Any, Literal, get_args

from qat.rule import known_fields
from qat.system.errors import UserError

Method = Literal["attention", "ctc_greedy", "ctc_beam"]
METHODS: tuple[str, ...] = get_args(Method)

# least value of each number; the weights and the bonus may be any finite number
LEAST: dict[str, int | float] = {
    **{"beam": 1, "max_attention_shift": 0, "bos": 0, "eos": 0, "blank": 0},
    **{"coverage_threshold": 0.0, "min_ratio": 0.0, "max_ratio": 0.0},
}
POSITIVE = ("temperature", "lm_temperature", "eos_threshold")


@dataclass(frozen=True)
class SearchSettings:
    """Everything that decides which tokens a search finds.

    Args:
        beam: hypotheses kept at each step.
        lm_weight: of the language model's log probabilities.
        ctc_weight: of the CTC head in a joint score; no search of ours takes it, so it must be 0 for them.
        coverage_weight: of the penalty on frames attended to more than `coverage_threshold` in all.
        coverage_threshold: attention that a frame may collect without a penalty.
        use_eos_threshold: whether `eos_threshold` applies.
        eos_threshold: the end of a sentence is possible only where its log probability exceeds this times the best one.
        max_attention_shift: frames that the peak of the attention may move in one step; 0 is off.
        temperature: divides the decoder's logits.
        lm_temperature: divides the language model's logits.
        min_ratio: least number of steps, as a share of the frames.
        max_ratio: largest number of steps, as a share of the frames.
        length_normalization: rank by score per token (attention only).
        length_bonus: added to the score for each token.
        bos: token that starts a sentence.
        eos: token that ends a sentence.
        blank: label of the CTC blank.

    Raises:
        UserError: naming field, value and what is allowed.
    """

    beam: int = 8
    lm_weight: float = 0.5
    ctc_weight: float = 0.0
    coverage_weight: float = 0.0
    coverage_threshold: float = 0.5
    use_eos_threshold: bool = True
    eos_threshold: float = 1.5
    max_attention_shift: int = 0
    temperature: float = 1.0
    lm_temperature: float = 1.0
    min_ratio: float = 0.0
    max_ratio: float = 1.0
    length_normalization: bool = True
    length_bonus: float = 0.0
    bos: int = 0
    eos: int = 0
    blank: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_field(name, value)
        if self.min_ratio > self.max_ratio:
            raise UserError(
                f"decoding.min_ratio: {self.min_ratio}, must be at most max_ratio ({self.max_ratio}); lower it"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins, for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchSettings:
        """The inverse of `to_dict`; a field that is absent takes its default.

        Raises:
            UserError: an unknown field, a wrong type or a value out of range.
        """
        return cls(**known_fields(cls, values, "decoding"))


@dataclass(frozen=True)
class DecodingOptions:
    """What a user overrides of a model's own search; null keeps the model's.

    Args:
        method: attention, ctc_greedy or ctc_beam.
        beam: hypotheses kept at each step.
        lm_weight: of the language model; 0 searches without it.
        coverage_weight: of the penalty on frames attended to more than `coverage_threshold` in all.
        coverage_threshold: attention that a frame may collect without a penalty.
        use_eos_threshold: whether `eos_threshold` applies.
        eos_threshold: the end of a sentence is possible only where its log probability exceeds this times the best one.
        max_attention_shift: frames that the peak of the attention may move in one step; 0 is off.
        temperature: divides the decoder's logits.
        lm_temperature: divides the language model's logits.
        min_ratio: least number of steps, as a share of the frames.
        max_ratio: largest number of steps, as a share of the frames.
        length_normalization: rank by score per token (attention only).
        length_bonus: added to the score for each token.

    Raises:
        UserError: naming field, value and what is allowed.
    """

    method: Method | None = None
    beam: int | None = None
    lm_weight: float | None = None
    coverage_weight: float | None = None
    coverage_threshold: float | None = None
    use_eos_threshold: bool | None = None
    eos_threshold: float | None = None
    max_attention_shift: int | None = None
    temperature: float | None = None
    lm_temperature: float | None = None
    min_ratio: float | None = None
    max_ratio: float | None = None
    length_normalization: bool | None = None
    length_bonus: float | None = None

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in METHODS:
            raise UserError(
                f"decoding.method: {self.method!r}, must be one of {', '.join(METHODS)}; choose one, "
                "or leave it out for the model's own"
            )
        for name, value in self.overrides().items():
            check_field(name, value)

    def given(self) -> dict[str, Any]:
        """What the user gave, the method included.

        >>> DecodingOptions(method="attention", beam=4).given()
        {'method': 'attention', 'beam': 4}
        """
        return {name: value for name, value in asdict(self).items() if value is not None}

    def overrides(self) -> dict[str, Any]:
        """The settings that the user gave."""
        return {name: value for name, value in self.given().items() if name != "method"}

    def refuse_for_ctc(self, model: str) -> None:
        """Refuse what a model that is decoded greedily cannot follow.

        Args:
            model: what it is, in words.

        Raises:
            UserError: naming the setting.
        """
        given = [*self.overrides(), *(["method"] if self.method not in (None, "ctc_greedy") else [])]
        if given:
            raise UserError(f"decoding.{given[0]}: must be left out for {model}; it is decoded greedily")

    def over(self, settings: SearchSettings) -> SearchSettings:
        """`settings` of the model, with the user's in their place.

        >>> DecodingOptions(beam=10).over(SearchSettings(beam=80, lm_weight=0.4)).to_dict()["lm_weight"]
        0.4
        """
        return replace(settings, **self.overrides())

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins, for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DecodingOptions:
        """The inverse of `to_dict`; a field that is absent keeps the model's.

        Raises:
            UserError: an unknown field, a wrong type or a value out of range.
        """
        return cls(**known_fields(cls, values, "decoding"))


KINDS = {item.name: type(item.default) for item in fields(SearchSettings)}


def check_field(name: str, value: object) -> None:
    """Check type and range of one search setting.

    Raises:
        UserError: naming field, value and what is allowed.
    """
    least, kind = LEAST.get(name), KINDS[name]
    if kind is bool:
        good, allowed = isinstance(value, bool), "true or false"
    elif kind is int:
        good, allowed = type(value) is int and value >= (least or 0), f"a whole number, {least or 0} or more"
    else:
        number = float(value) if isinstance(value, int | float) and type(value) is not bool else float("nan")
        good, allowed = isfinite(number), "a finite number"
        if name in POSITIVE:
            good, allowed = good and number > 0, "a number above 0"
        elif least is not None:
            good, allowed = good and number >= least, f"a number, {least:g} or more"
    if not good:
        raise UserError(
            f"decoding.{name}: {value!r}, must be {allowed}; correct it, or leave it out for the default"
        )
