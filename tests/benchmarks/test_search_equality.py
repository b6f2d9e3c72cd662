"""The shipped attention model's float folder finds SpeechBrain's own tokens."""

from __future__ import annotations

import pytest

from benchmarks.search_equality import CHECKPOINT, measure
from datamodules.mini_corpus import MiniDataModule


@pytest.mark.slow
def test_tokens_and_scores_are_those_of_speechbrain_on_real_speech() -> None:
    data = MiniDataModule(max_test_utterances=2)
    rows = measure(CHECKPOINT, data, ["test_seen", "test_real"], [1, 8, 80])
    assert [row["equal"] for row in rows] == [2] * 6
    assert all(row["tokens"] > 10 and row["largest_score_difference"] < 1e-4 for row in rows)
