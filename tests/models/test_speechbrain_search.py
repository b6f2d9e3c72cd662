"""Search settings of both styles of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qat.decoding.options import SearchSettings
from qat.models.speechbrain_search import SearchReader
from qat.models.speechbrain_yaml import Node
from qat.system.errors import UserError

COMMON: dict[str, Any] = {
    "embedding": Node("new", "Embedding"),
    "decoder": Node("new", "AttentionalRNNDecoder"),
    "linear": Node("new", "Linear"),
    "bos_index": 0,
    "eos_index": 0,
    "min_decode_ratio": 0.0,
    "max_decode_ratio": 1.0,
    "beam_size": 80,
    "eos_threshold": 1.5,
    "using_max_attn_shift": True,
    "max_attn_shift": 240,
    "temperature": 1.25,
}
LM = Node("new", "RNNLM")
PUBLISHED = SearchSettings(
    beam=80,
    lm_weight=0.5,
    coverage_weight=1.5,
    max_attention_shift=240,
    temperature=1.25,
    lm_temperature=1.25,
)
FILE = Path("hyperparams.yaml")


def searcher(name: str = "S2SRNNBeamSearcher", **arguments: Any) -> SearchReader:
    return SearchReader(FILE, Node("new", name, (), {**COMMON, **arguments}, "decoder", 5))


def scorers(weights: dict[str, float], *listed: Node, **more: Any) -> Node:
    return Node(
        "new", "ScorerBuilder", (), {"weights": weights, "full_scorers": list(listed), **more}, "scorer", 4
    )


RNNLM = Node("new", "RNNLMScorer", (), {"language_model": LM, "temperature": 1.25}, "rnnlm_scorer", 1)
COVERAGE = Node("new", "CoverageScorer", (), {"vocab_size": 40}, "coverage_scorer", 2)


def test_both_styles_of_the_published_search_are_the_same_settings() -> None:
    old = searcher(
        "S2SRNNBeamSearchLM",
        language_model=LM,
        lm_weight=0.5,
        temperature_lm=1.25,
        coverage_penalty=1.5,
        ctc_weight=0.0,
        blank_index=0,
    )
    new = searcher(scorer=scorers({"rnnlm": 0.5, "coverage": 1.5}, RNNLM, COVERAGE))
    assert SearchSettings.from_dict(old.settings) == SearchSettings.from_dict(new.settings) == PUBLISHED
    assert old.language_model is new.language_model is LM and new.vocabulary == {
        "coverage_scorer.vocab_size": 40
    }


def test_absent_settings_are_speechbrains_defaults() -> None:
    names = ("bos_index", "eos_index", "min_decode_ratio", "max_decode_ratio", "beam_size")
    plain = {name: COMMON[name] for name in ("embedding", "decoder", "linear", *names)}
    found = SearchReader(FILE, Node("new", "S2SRNNBeamSearcher", (), plain, "decoder", 5))
    settings = SearchSettings.from_dict(found.settings)
    assert settings == SearchSettings(beam=80, lm_weight=0.0) and found.language_model is None


def test_a_bonus_for_length_and_the_ctc_head_are_carried_along() -> None:
    length = Node("new", "LengthScorer", (), {"vocab_size": 40}, "length_scorer", 3)
    ctc = Node("new", "CTCScorer", (), {"blank_index": 2, "eos_index": 0, "ctc_fc": None}, "ctc_scorer", 3)
    built = scorers({"length": 0.1, "ctc": 0.4}, length, partial_scorers=[ctc])
    found = searcher(scorer=built, length_normalization=False).settings
    assert (found["length_bonus"], found["ctc_weight"], found["blank"]) == (0.1, 0.4, 2)
    assert found["length_normalization"] is False and found["lm_weight"] == 0.0


def test_what_no_search_of_ours_does_is_refused() -> None:
    cases: dict[str, dict[str, Any]] = {
        "decoder.return_topk: True, must be False": {"return_topk": True},
        "decoder.beam_size: 0, must be a whole number": {"beam_size": 0},
        "decoder.embedding: must be given|decoder.embedding: None, must be Embedding": {"embedding": None},
        "scorer.weights: .*must be a number": {"scorer": scorers({"rnnlm": "much"}, RNNLM)},  # type: ignore[dict-item]
        "scorer.weights.rnnlm: must be given": {"scorer": scorers({"coverage": 1.5}, RNNLM, COVERAGE)},
        "scorer.weights.rnnlm: 0.5, must have its scorer listed": {
            "scorer": scorers({"coverage": 1.5, "rnnlm": 0.5}, COVERAGE)
        },
        "scorer.full_scorers: Linear, must be one of": {"scorer": scorers({}, Node("new", "Linear"))},
    }
    for problem, arguments in cases.items():
        with pytest.raises(UserError, match=problem):
            searcher(**arguments)
