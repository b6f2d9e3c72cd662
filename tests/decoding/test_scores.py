"""Log probabilities and the best of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qat.decoding.scores import best_first, log_softmax


@pytest.mark.parametrize("temperature", [1.0, 1.25])
def test_log_probabilities_are_torchs(temperature: float) -> None:
    logits = np.random.default_rng(0).normal(0, 20, (6, 50)).astype(np.float32)
    theirs = torch.log_softmax(torch.from_numpy(logits) / temperature, -1).numpy()
    ours = log_softmax(logits, temperature)
    assert ours.dtype == np.float32
    assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_log_probabilities_stay_what_they_are() -> None:
    once = log_softmax(np.array([[3.0, -200.0, 5.0]]))
    assert np.allclose(log_softmax(once), once, atol=1e-12)


@pytest.mark.parametrize("count", [1, 7, 50, 60])
def test_the_best_come_first_and_of_equal_ones_the_lowest_index(count: int) -> None:
    scores = np.random.default_rng(count).integers(0, 9, 50).astype(np.float32)
    expected = sorted(range(50), key=lambda index: (-scores[index], index))[:count]
    assert best_first(scores, count).tolist() == expected
