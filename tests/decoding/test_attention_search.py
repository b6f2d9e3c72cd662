"""The attention search against SpeechBrain's own on the same modules, and its rules on scripted scores."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qat.decoding.attention_search import AttentionSearch
from qat.decoding.encoded import Encoded
from qat.decoding.options import SearchSettings
from qat.decoding.steps import Memory, take_rows
from qat.system.errors import UserError
from tests.conftest import ROOT
from tests.decoding.speechbrain_steps import (
    SpeechBrainDecoderStep,
    SpeechBrainLanguageModelStep,
    random_encoded,
    random_parts,
    searcher,
    speechbrain_search,
)

TOKENS = 90  # more than the widest beam, as in the published model
PUBLISHED = SearchSettings(
    coverage_weight=1.5, max_attention_shift=240, temperature=1.25, lm_temperature=1.25
)
SCORES_AGREE = 1e-4  # float32 sums in another order


def assert_same_as_speechbrain(
    settings: SearchSettings, seed: int, frames: int, peak: float = 1.0, end: float = 0.0
) -> int:
    """Tokens equal, scores within 1e-4; the number of tokens."""
    parts, encoded = random_parts(seed, TOKENS, peak, end), random_encoded(seed, frames)
    theirs = speechbrain_search(parts, settings, encoded)
    search = AttentionSearch(settings, SpeechBrainDecoderStep(parts), SpeechBrainLanguageModelStep(parts))
    ours = search.search(encoded)
    assert theirs.score > -1e10, "all hypotheses were blocked: what is chosen of equal scores is open"
    assert ours.tokens == theirs.tokens
    assert ours.score == pytest.approx(theirs.score, abs=SCORES_AGREE)
    return len(ours.tokens)


@pytest.mark.parametrize("coverage_weight", [0.0, 1.5])
@pytest.mark.parametrize("lm_weight", [0.0, 0.5])
@pytest.mark.parametrize("beam", [1, 8, 80])
def test_tokens_and_scores_are_speechbrains(beam: int, lm_weight: float, coverage_weight: float) -> None:
    settings = replace(PUBLISHED, beam=beam, lm_weight=lm_weight, coverage_weight=coverage_weight)
    for seed, frames, peak, end in [
        (0, 5, 1.0, 0.0),
        (3, 30, 1.0, 0.0),
        (2, 30, 8.0, 4.0),
        (1, 30, 12.0, 8.0),
    ]:
        assert_same_as_speechbrain(settings, seed, frames, peak, end)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_attention_shift": 0},
        {"bos": 1, "eos": 2},
        {"min_ratio": 0.5, "max_ratio": 0.8},
        {"max_ratio": 1.5, "use_eos_threshold": False},
        {"eos_threshold": 5.0, "coverage_threshold": 0.3},
        {"temperature": 0.7, "lm_temperature": 2.0},
        {"length_normalization": False},
        {"length_normalization": False, "length_bonus": 0.5},
    ],
)
@pytest.mark.parametrize("beam", [8, 80])
def test_each_setting_means_what_it_means_to_speechbrain(changes: dict[str, Any], beam: int) -> None:
    settings = replace(PUBLISHED, beam=beam, **changes)
    for seed, peak, end in [(5, 1.0, 0.0), (2, 8.0, 4.0)]:
        assert_same_as_speechbrain(settings, seed, 24, peak, end)


@pytest.mark.parametrize("beam", [8, 80])
def test_a_limit_on_the_attentions_shift_blocks_what_speechbrain_blocks(beam: int) -> None:
    settings = replace(PUBLISHED, beam=beam, max_attention_shift=16)
    for seed in (0, 2):
        limited = assert_same_as_speechbrain(settings, seed, 24, 8.0, 4.0)
        assert limited != assert_same_as_speechbrain(
            replace(settings, max_attention_shift=0), seed, 24, 8.0, 4.0
        )


@pytest.mark.parametrize("beam", [1, 8, 80])
def test_sentences_that_end_early_and_that_never_end_are_speechbrains(beam: int) -> None:
    settings = replace(PUBLISHED, beam=beam)
    lengths = [assert_same_as_speechbrain(settings, seed, 30, 12.0, 6.0) for seed in range(5)]
    assert min(lengths) < 20, "some end of themselves"
    assert max(lengths) == 29, "some are cut, and lose a token"


def test_the_list_of_hypotheses_is_speechbrains() -> None:
    settings = replace(PUBLISHED, beam=8, use_eos_threshold=False)
    parts, encoded = random_parts(3, TOKENS), random_encoded(3, 12)
    theirs = searcher(parts, replace(settings, max_ratio=1.0), topk=8)
    theirs.return_topk = True
    with torch.no_grad():
        _, _, scores, _ = theirs(torch.from_numpy(encoded.states)[None], torch.ones(1))
    search = AttentionSearch(settings, SpeechBrainDecoderStep(parts), SpeechBrainLanguageModelStep(parts))
    found = search.hypotheses(encoded)
    assert [item.score for item in found] == pytest.approx(scores[0].tolist(), abs=SCORES_AGREE)
    assert found[0] == search.search(encoded)


class ScriptedDecoder:
    """The same probabilities `(V,)` in each step; the attention stays on frame `peaks[step]`."""

    def __init__(self, probabilities: list[float], peaks: list[int] | None = None) -> None:
        self.log_probs = np.log(np.array(probabilities, np.float32))
        self.peaks, self.frames = peaks, 0

    def start(self, encoded: Encoded) -> Memory:
        self.frames = encoded.frames
        return (np.zeros((1, 1), np.int64),)

    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[Any], NDArray[Any], Memory]:
        step = int(memory[0][0, 0])
        attention = np.full((len(tokens), self.frames), 0.01, np.float32)
        attention[:, self.peaks[step] if self.peaks else 0] = 0.5
        return np.tile(self.log_probs, (len(tokens), 1)), attention, (memory[0] + 1,)

    def select(self, memory: Memory, rows: NDArray[Any]) -> Memory:
        return take_rows(memory, rows)


def found(settings: SearchSettings, decoder: ScriptedDecoder, frames: int = 4) -> list[int]:
    """Tokens of an utterance without content."""
    return AttentionSearch(settings, decoder).search(random_encoded(0, frames)).tokens


def test_the_end_needs_a_log_probability_above_the_threshold_times_the_best() -> None:
    one = SearchSettings(beam=1, max_ratio=1.0)
    assert found(one, ScriptedDecoder([0.5, 0.3, 0.2])) == []
    assert found(one, ScriptedDecoder([0.3, 0.5, 0.2])) == [1, 1, 1], "an unfinished one loses its last token"
    two = SearchSettings(beam=2)
    assert found(replace(two, eos_threshold=2.0), ScriptedDecoder([0.3, 0.5, 0.2])) != [], (
        "log 0.3 > 2 log 0.5"
    )
    ended = AttentionSearch(replace(two, eos_threshold=2.0), ScriptedDecoder([0.3, 0.5, 0.2])).hypotheses(
        random_encoded(0, 4)
    )
    assert ended[-1].tokens == []
    blocked = AttentionSearch(two, ScriptedDecoder([0.3, 0.5, 0.2])).hypotheses(random_encoded(0, 4))
    assert all(len(item.tokens) == 3 for item in blocked), "log 0.3 < 1.5 log 0.5"


def test_a_jump_of_the_attention_blocks_a_hypothesis() -> None:
    stays, jumps = [0, 1, 2, 2], [0, 1, 3, 3]
    settings = SearchSettings(beam=1, max_attention_shift=1, length_normalization=False)

    def score(peaks: list[int]) -> float:
        decoder = ScriptedDecoder([0.3, 0.5, 0.2], peaks)
        return AttentionSearch(settings, decoder).search(random_encoded(0, 4)).score

    assert score(stays) == pytest.approx(4 * np.log(0.5))
    assert score(jumps) == pytest.approx(-1e20)


def test_equal_scores_are_decided_by_the_lower_token() -> None:
    assert found(SearchSettings(beam=1), ScriptedDecoder([0.1, 0.3, 0.3, 0.3])) == [1, 1, 1]


def test_no_step_gives_no_tokens() -> None:
    assert found(SearchSettings(beam=3, max_ratio=0.1), ScriptedDecoder([0.3, 0.5, 0.2])) == []


def test_a_weight_of_zero_asks_no_language_model() -> None:
    parts = random_parts(0, TOKENS)
    with_model = AttentionSearch(
        SearchSettings(lm_weight=0.0), SpeechBrainDecoderStep(parts), SpeechBrainLanguageModelStep(parts)
    )
    assert with_model.language_model is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ctc_weight": 0.3}, "decoding.ctc_weight: 0.3, must be 0 for method attention"),
        ({"length_bonus": 0.3}, "decoding.length_bonus: 0.3, must be 0 where length_normalization is true"),
    ],
)
def test_settings_it_cannot_follow_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AttentionSearch(SearchSettings(**changes), ScriptedDecoder([0.5, 0.5]))


WITHOUT_TORCH = """
import sys
sys.modules.update(torch=None, speechbrain=None)
from qat.decoding import attention_search, ctc, prefix_beam, tokenizer
print(tokenizer.CharacterTokenizer(["a"]).decode([0]))
"""


def test_searches_and_tokenizers_need_no_torch() -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "a\n", done.stderr
