"""One call for each way to find tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qat.decoding.attention_search import AttentionSearch
from qat.decoding.encoded import Encoded
from qat.decoding.method import search_of
from qat.decoding.options import SearchSettings
from qat.decoding.prefix_beam import PrefixBeamSearch
from qat.system.errors import UserError
from tests.decoding.speechbrain_steps import (
    SpeechBrainDecoderStep,
    SpeechBrainLanguageModelStep,
    random_encoded,
    random_parts,
)

SETTINGS = SearchSettings(beam=4)


def with_logits() -> Encoded:
    plain = random_encoded(1, 9)
    logits = np.random.default_rng(2).standard_normal((9, 7)).astype(np.float32)
    return Encoded(plain.states, plain.keys, plain.values, logits)


def test_each_method_finds_what_its_own_search_finds() -> None:
    parts, encoded = random_parts(0, 7), with_logits()
    assert encoded.logits is not None
    steps = SpeechBrainDecoderStep(parts), SpeechBrainLanguageModelStep(parts)
    beam = AttentionSearch(SETTINGS, *steps).search(encoded)
    assert search_of("attention", SETTINGS, *steps)(encoded) == beam
    prefix = PrefixBeamSearch(SETTINGS, steps[1]).search(encoded.logits)
    assert search_of("ctc_beam", SETTINGS, *steps)(encoded) == prefix
    greedy = search_of("ctc_greedy", SETTINGS, *steps)(encoded)
    alone = PrefixBeamSearch(SearchSettings(beam=64)).search(50 * encoded.logits)  # one path has all
    assert greedy.tokens == alone.tokens


def test_a_model_without_a_ctc_head_is_searched_by_attention_only() -> None:
    parts, method = random_parts(0, 7), "ctc_greedy"
    search: Any = search_of("ctc_greedy", SETTINGS, SpeechBrainDecoderStep(parts))
    with pytest.raises(UserError, match=f"decoding.method: '{method}', must be attention"):
        search(random_encoded(1, 9))
