"""Searches in words."""

from __future__ import annotations

from qat.decoding.options import DecodingOptions, SearchSettings
from qat.decoding.search_text import search_text


def test_a_language_model_of_no_weight_is_none() -> None:
    off = DecodingOptions(lm_weight=0.0)
    assert search_text("attention", off.over(SearchSettings(beam=4)), True, off) == "attention, beam 4, no lm"


def test_what_a_user_changed_is_named_and_what_the_model_brings_is_not() -> None:
    own = SearchSettings(beam=80, coverage_weight=1.5)
    changed = DecodingOptions(eos_threshold=2.0)
    assert search_text("attention", own, True) == "attention, beam 80, lm 0.5"
    assert search_text("attention", changed.over(own), True, changed).endswith(", eos_threshold 2.0")
