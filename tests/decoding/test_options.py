"""Settings of a search: checked, kept as plain builtins, overridden by the user."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qat.decoding.options import DecodingOptions, SearchSettings
from qat.system.errors import UserError


def test_settings_survive_json() -> None:
    settings = SearchSettings(beam=80, lm_weight=0.4, use_eos_threshold=False, eos=2)
    assert SearchSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    options = DecodingOptions(method="ctc_beam", beam=3)
    assert DecodingOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_an_absent_field_takes_its_default() -> None:
    assert SearchSettings.from_dict({"beam": 3}) == SearchSettings(beam=3)


def test_options_replace_what_they_name_and_keep_the_rest() -> None:
    model = SearchSettings(beam=80, lm_weight=0.5, eos=2)
    assert DecodingOptions().over(model) == model
    assert DecodingOptions(method="attention", beam=10, lm_weight=0.0, use_eos_threshold=False).over(
        model
    ) == SearchSettings(beam=10, lm_weight=0.0, use_eos_threshold=False, eos=2)


def test_every_option_but_the_method_is_a_setting() -> None:
    assert set(DecodingOptions().to_dict()) - {"method"} <= set(SearchSettings().to_dict())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam": 0}, "decoding.beam: 0, must be a whole number, 1 or more"),
        ({"beam": True}, "decoding.beam: True, must be a whole number"),
        ({"beam": 2.5}, "decoding.beam: 2.5, must be a whole number"),
        ({"lm_weight": "high"}, "decoding.lm_weight: 'high', must be a finite number"),
        ({"lm_weight": float("nan")}, "decoding.lm_weight: nan, must be a finite number"),
        ({"temperature": 0.0}, "decoding.temperature: 0.0, must be a number above 0"),
        ({"coverage_threshold": -1.0}, "decoding.coverage_threshold: -1.0, must be a number, 0 or more"),
        ({"max_attention_shift": -1}, "decoding.max_attention_shift: -1, must be a whole number, 0 or more"),
        ({"use_eos_threshold": 1}, "decoding.use_eos_threshold: 1, must be true or false"),
        ({"beem": 3}, "decoding: field 'beem' must be one of .*; did you mean 'beam'"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], message: str) -> None:
    for kind in (SearchSettings, DecodingOptions):
        with pytest.raises(UserError, match=message):
            kind.from_dict(values)


def test_a_wrong_method_is_named() -> None:
    with pytest.raises(
        UserError, match="decoding.method: 'beam', must be one of attention, ctc_greedy, ctc_beam"
    ):
        DecodingOptions.from_dict({"method": "beam"})


def test_ratios_must_leave_room() -> None:
    with pytest.raises(UserError, match=r"decoding.min_ratio: 0.5, must be at most max_ratio \(0.4\)"):
        DecodingOptions(min_ratio=0.5).over(SearchSettings(max_ratio=0.4))
