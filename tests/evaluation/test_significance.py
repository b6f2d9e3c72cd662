"""Bootstrap intervals and p values against plain loops, all samples of tiny sets, and their laws."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.evaluation.significance import (
    exact_in_float32,
    paired_difference,
    resampled_rates,
    resampled_sums,
    wer_interval,
)

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9)), min_size=2, max_size=12)


def every_sample(errors: list[int], words: list[int]) -> np.ndarray:
    """Rates of all N^N equally likely bootstrap samples."""
    drawn = np.array(list(itertools.product(range(len(errors)), repeat=len(errors))))
    return 100 * np.array(errors)[drawn].sum(1) / np.array(words)[drawn].sum(1)


@settings(deadline=None, max_examples=25)
@given(PAIRS, st.integers(0, 5))
def test_identical_systems_differ_by_nothing_with_p_one(pairs: list[tuple[int, int]], seed: int) -> None:
    errors, words = zip(*pairs, strict=True)
    difference = paired_difference(errors, errors, words, seed, resamples=200)
    assert difference is not None
    assert (difference.mean, difference.ci95, difference.p_value) == (0.0, (0.0, 0.0), 1.0)


@settings(deadline=None, max_examples=25)
@given(PAIRS, PAIRS, st.integers(0, 5))
def test_swapping_the_systems_turns_the_sign(
    pairs: list[tuple[int, int]], other: list[tuple[int, int]], seed: int
) -> None:
    count = min(len(pairs), len(other))
    errors, words = zip(*pairs[:count], strict=True)
    baseline = [item[0] for item in other[:count]]
    one = paired_difference(errors, baseline, words, seed, resamples=300)
    two = paired_difference(baseline, errors, words, seed, resamples=300)
    assert one is not None and two is not None
    assert one.mean == -two.mean and one.p_value == two.p_value
    np.testing.assert_allclose(one.ci95, [-two.ci95[1], -two.ci95[0]], rtol=1e-12, atol=1e-12)


def test_chunks_give_the_sums_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qat.evaluation.significance.CHUNK_ELEMENTS", 20)
    monkeypatch.setattr("qat.evaluation.significance.KEPT_ELEMENTS", 0)
    columns = np.random.default_rng(1).integers(0, 9, (7, 2)).astype(float)
    sums = np.concatenate(list(resampled_sums(columns, resamples=11, seed=3)))
    generator = np.random.default_rng(3)
    loop = [sum(columns[i] for i in generator.integers(0, 7, 7)) for _ in range(11)]
    np.testing.assert_array_equal(sums, loop)


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0**23])
def test_kept_draws_give_the_same_sums_as_fresh_ones(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = scale * np.random.default_rng(1).integers(-3, 9, (31, 2)).astype(float)
    kept = np.concatenate(list(resampled_sums(columns, resamples=50, seed=3)))
    assert exact_in_float32(columns) == (scale == 1.0)
    monkeypatch.setattr("qat.evaluation.significance.KEPT_ELEMENTS", 0)
    np.testing.assert_array_equal(np.concatenate(list(resampled_sums(columns, resamples=50, seed=3))), kept)


def test_interval_and_p_agree_with_all_samples_of_a_tiny_set() -> None:
    errors, baseline, words = [3, 0, 1, 2, 4], [1, 1, 1, 0, 1], [5, 7, 4, 3, 6]
    rates = resampled_rates(errors, words, 20_000, seed=0)
    exact = every_sample(errors, words)
    for cut in np.percentile(exact, [5, 30, 50, 70, 95]):
        share = np.mean(exact <= cut)
        # 4 sigma of a share counted in 20,000 draws
        assert abs(np.mean(rates <= cut) - share) < 4 * np.sqrt(share * (1 - share) / 20_000)
    gaps = every_sample([a - b for a, b in zip(errors, baseline, strict=True)], words)
    difference = paired_difference(errors, baseline, words, seed=0, resamples=20_000)
    assert difference is not None
    share = np.mean(gaps <= 0)
    assert abs(difference.p_value / 2 - share) < 4 * np.sqrt(share * (1 - share) / 20_000) + 1 / 20_000
    assert difference.mean == 100 * (10 - 4) / 25


def test_interval_covers_the_true_rate_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered, trials, rate = 0, 300, 0.1
    for trial in range(trials):
        words = generator.integers(5, 25, 150)
        interval = wer_interval(generator.binomial(words, rate), words, seed=trial, resamples=400)
        assert interval is not None
        covered += interval[0] <= 100 * rate <= interval[1]
    # 4 sigma of 300 trials, and one point for the known slight narrowness of percentile intervals at N = 150
    assert abs(covered / trials - 0.95) < 4 * np.sqrt(0.95 * 0.05 / trials) + 0.01


def test_p_below_five_percent_is_as_rare_as_it_should_be_between_equal_systems() -> None:
    generator = np.random.default_rng(1)
    trials, alarms = 300, 0
    for trial in range(trials):
        words = generator.integers(5, 25, 150)
        one, two = generator.binomial(words, 0.1), generator.binomial(words, 0.1)
        difference = paired_difference(one, two, words, seed=trial, resamples=400)
        alarms += difference is not None and difference.p_value < 0.05
    assert alarms / trials < 0.05 + 4 * np.sqrt(0.05 * 0.95 / trials) + 0.01  # same reasons as above


def test_pairing_sees_a_difference_that_separate_intervals_hide() -> None:
    generator = np.random.default_rng(2)
    words = generator.integers(5, 25, 400)
    hard = generator.binomial(words, 0.1)
    worse = hard + (generator.random(400) < 0.05)
    one, two = wer_interval(hard, words, 0), wer_interval(worse, words, 0)
    difference = paired_difference(worse, hard, words, 0)
    assert one is not None and two is not None and difference is not None
    assert one[1] > two[0], "the separate intervals overlap"
    assert difference.p_value < 0.001 and difference.ci95[0] > 0


def test_p_is_never_zero() -> None:
    difference = paired_difference([5] * 30, [0] * 30, [9] * 30, seed=0, resamples=999)
    assert difference is not None and difference.p_value == 2 / 1000


def test_same_seed_same_numbers_and_other_seed_other_numbers() -> None:
    words = np.arange(1, 40)
    errors = words % 5
    assert wer_interval(errors, words, 7) == wer_interval(errors, words, 7)
    assert wer_interval(errors, words, 7) != wer_interval(errors, words, 8)


def test_nothing_to_resample_gives_none() -> None:
    assert wer_interval([1], [4], 0) is None
    assert paired_difference([1], [0], [4], 0) is None
    assert wer_interval([1, 2], [0, 0], 0) is None
    with pytest.raises(ValueError, match="errors of 2 utterances but reference words of 1"):
        wer_interval([1, 2], [3], 0)


def test_samples_without_reference_words_are_left_out() -> None:
    interval = wer_interval([1, 0], [0, 10], seed=0, resamples=500)
    assert interval is not None and np.isfinite(interval).all()


def test_thousand_utterances_take_seconds_at_most() -> None:
    words = np.random.default_rng(0).integers(3, 30, 1000)
    started = time.process_time()
    wer_interval(words // 9, words, 0)
    paired_difference(words // 9, words // 8, words, 0)
    assert time.process_time() - started < 3.0  # 0.3 s on an idle core; the rest is for busy ones
