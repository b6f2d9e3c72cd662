"""The prefix beam search against the sum over every alignment."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qat.decoding.options import SearchSettings
from qat.decoding.prefix_beam import PrefixBeamSearch, PrefixTree
from qat.decoding.scores import log_softmax
from qat.decoding.steps import Memory, take_rows

ALL = 10_000  # a beam that drops nothing


class BigramStep:
    """A language model whose logits depend on the last two tokens: `table[before, last]`, `(V, V, V)`."""

    def __init__(self, table: NDArray[Any]) -> None:
        self.table, self.asked = table, 0

    def start(self) -> Memory:
        return (np.zeros(1, np.int64),)

    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[Any], Memory]:
        self.asked += len(tokens)
        return self.table[memory[0], tokens], (tokens.copy(),)

    def select(self, memory: Memory, rows: NDArray[Any]) -> Memory:
        return take_rows(memory, rows)

    def score(self, tokens: list[int], settings: SearchSettings) -> float:
        """Log probability of a whole sentence."""
        heard, total = [0, settings.bos], 0.0
        for token in [*tokens, settings.eos]:
            total += log_softmax(self.table[heard[-2], heard[-1]], settings.lm_temperature)[token]
            heard.append(token)
        return float(total)


def labellings(log_probs: NDArray[Any], blank: int) -> dict[tuple[int, ...], float]:
    """Every labelling -> its log probability, over all alignments."""
    found: dict[tuple[int, ...], float] = defaultdict(lambda: -np.inf)
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        labels = tuple(label for label, _ in groupby(path) if label != blank)
        found[labels] = np.logaddexp(found[labels], sum(log_probs[t, label] for t, label in enumerate(path)))
    return dict(found)


def random_log_probs(seed: int, frames: int, tokens: int, peak: float = 1.0) -> NDArray[Any]:
    return log_softmax(peak * np.random.default_rng(seed).standard_normal((frames, tokens)))


@pytest.mark.parametrize(("frames", "tokens", "blank"), [(1, 3, 0), (5, 3, 0), (6, 3, 2), (4, 5, 1)])
def test_a_beam_that_drops_nothing_gives_every_labelling_its_probability(
    frames: int, tokens: int, blank: int
) -> None:
    for seed in range(3):
        log_probs = random_log_probs(seed, frames, tokens)
        found = PrefixBeamSearch(SearchSettings(beam=ALL, blank=blank)).hypotheses(log_probs)
        assert {tuple(item.tokens): pytest.approx(item.score) for item in found} == labellings(
            log_probs, blank
        )
        assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


@pytest.mark.parametrize(
    "settings",
    [
        SearchSettings(beam=ALL, lm_weight=0.7),
        SearchSettings(beam=ALL, lm_weight=0.7, length_bonus=0.4, lm_temperature=1.3),
        SearchSettings(beam=ALL, lm_weight=-0.2, bos=1, eos=2, blank=3),
        SearchSettings(beam=ALL, lm_weight=0.0, length_bonus=-0.5),
    ],
)
def test_language_model_and_bonus_add_to_the_score_of_a_labelling(settings: SearchSettings) -> None:
    table = np.random.default_rng(1).standard_normal((4, 4, 4)).astype(np.float32)
    log_probs, model = random_log_probs(2, 4, 4), BigramStep(table)
    expected = {
        labels: score
        + settings.lm_weight * model.score(list(labels), settings)
        + settings.length_bonus * len(labels)
        for labels, score in labellings(log_probs, settings.blank).items()
    }
    found = PrefixBeamSearch(settings, model).hypotheses(log_probs)
    assert {tuple(item.tokens): pytest.approx(item.score, abs=1e-5) for item in found} == expected


@pytest.mark.parametrize("lm_weight", [0.0, 0.5])
def test_a_wide_beam_finds_the_best_labelling_and_greedy_is_never_better(lm_weight: float) -> None:
    settings, gained = SearchSettings(beam=40, lm_weight=lm_weight), 0
    table = np.random.default_rng(1).standard_normal((3, 3, 3)).astype(np.float32)
    for seed in range(12):
        log_probs, model = random_log_probs(seed, 7, 3, peak=1.5), BigramStep(table)
        scores = {
            labels: score + lm_weight * model.score(list(labels), settings)
            for labels, score in labellings(log_probs, 0).items()
        }
        best = PrefixBeamSearch(settings, model).search(log_probs)
        greedy = tuple(label for label, _ in groupby(log_probs.argmax(1).tolist()) if label)
        assert tuple(best.tokens) == max(scores, key=lambda labels: scores[labels])
        assert scores[tuple(best.tokens)] >= scores[greedy]
        gained += scores[tuple(best.tokens)] > scores[greedy]
    assert gained, "the best path is not always the best labelling"


@pytest.mark.parametrize("beam", [1, 2, 5, 9])
def test_what_is_left_unasked_changes_nothing(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).standard_normal((12, 12, 12)).astype(np.float32)
    log_probs = random_log_probs(3, 30, 12, peak=3.0)
    log_probs[::2] = log_softmax(np.eye(1, 12) * 9.0)[0]  # blanks
    settings, lazy, eager = SearchSettings(beam=beam, length_bonus=0.2), BigramStep(table), BigramStep(table)
    some = PrefixBeamSearch(settings, lazy).hypotheses(log_probs)

    def everything(self: PrefixBeamSearch, scores: Any, stay: Any, frame: Any) -> tuple[Any, Any]:
        return np.arange(len(stay)), np.arange(1, len(frame))

    monkeypatch.setattr(PrefixBeamSearch, "_open", everything)
    every = PrefixBeamSearch(settings, eager).hypotheses(log_probs)
    assert [item.tokens for item in some] == [item.tokens for item in every]
    assert [item.score for item in some] == pytest.approx([item.score for item in every])
    assert lazy.asked <= eager.asked


def test_logits_and_log_posteriors_are_searched_alike() -> None:
    logits = 5 + np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    search = PrefixBeamSearch(SearchSettings(beam=5))
    assert search.search(logits).tokens == search.search(log_softmax(logits)).tokens


def test_no_frames_give_no_tokens() -> None:
    assert PrefixBeamSearch(SearchSettings()).search(np.zeros((0, 4))).tokens == []


def test_a_posterior_of_zero_is_never_taken() -> None:
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]))
    found = PrefixBeamSearch(SearchSettings(beam=ALL)).hypotheses(log_probs)
    assert {tuple(item.tokens): pytest.approx(item.score) for item in found} == {
        (1,): np.log(0.5),
        (1, 2): np.log(0.5),
    }


def test_a_prefix_found_again_is_the_same_node() -> None:
    tree = PrefixTree()
    node = tree.child(tree.child(0, 3), 3)
    assert tree.child(tree.child(0, 3), 3) == node
    assert tree.spell(node) == [3, 3]
    assert tree.spell(0) == []
