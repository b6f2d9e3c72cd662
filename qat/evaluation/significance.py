"""Bootstrap intervals of a corpus word error rate, and of the paired difference to a baseline.

Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation": utterances
are drawn with replacement; two systems share the draws, so that what is hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CHUNK_ELEMENTS = 2**19  # drawn indices held at once: a few MB, whatever the number of utterances
KEPT_ELEMENTS = 2**23  # of a set of draws that is kept for the next system on the same utterances: 32 MB
EXACT = 2**24  # float32 holds every integer below it

Counts = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Difference:
    """WER of a system minus that of its baseline, in points of percent.

    Attributes:
        mean: difference of the two corpus WERs themselves, so that it agrees with the WERs shown.
        ci95: 95 % percentile interval of the resampled difference.
        p_value: two-sided, in (0, 1]: how surprising the sign of the difference would be if there were none.
    """

    mean: float
    ci95: tuple[float, float]
    p_value: float

    def to_dict(self) -> dict[str, float | list[float]]:
        """The row's `delta_wer_vs_float`."""
        return {"mean": self.mean, "ci95": list(self.ci95), "p_value": self.p_value}


def resampled_sums(columns: NDArray[np.float64], resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Column sums of bootstrap samples of the rows.

    Args:
        columns: one row per utterance `(N, K)`; all K columns share every draw.
        resamples: number of samples.
        seed: of the draws; the same seed, N and number of resamples give the same draws.

    Yields:
        Sums `(chunk, K)`, in all `resamples` rows.
    """
    count = len(columns)
    if count * resamples <= KEPT_ELEMENTS and exact_in_float32(columns):
        sums = times_drawn(count, resamples, seed) @ columns.astype(np.float32)
        yield sums.astype(np.float64)
        return
    for drawn in draws(count, resamples, seed):
        yield np.stack([column.take(drawn).sum(axis=1) for column in columns.T], axis=1)


def draws(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Drawn row numbers `(chunk, count)` of all samples, chunk by chunk."""
    chunk = max(1, CHUNK_ELEMENTS // count)
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        yield generator.integers(0, count, size=(rows, count))  # int64: `take` is slow on int32


@lru_cache(maxsize=4)
def times_drawn(count: int, resamples: int, seed: int) -> NDArray[np.float32]:
    """How often each sample draws each row `(resamples, count)`: systems on the same utterances share it."""
    parts = []
    for drawn in draws(count, resamples, seed):
        places = (drawn + count * np.arange(len(drawn))[:, None]).ravel()
        parts.append(np.bincount(places, minlength=drawn.size).reshape(drawn.shape).astype(np.float32))
    return np.concatenate(parts)


def exact_in_float32(columns: NDArray[np.float64]) -> bool:
    """Whether float32 gives the sums of resampled rows to the last bit: whole numbers, and not too many."""
    largest = float(np.abs(columns).max(initial=0.0)) * len(columns)
    return largest < EXACT and bool((columns == np.rint(columns)).all())


def resampled_rates(errors: Counts, words: Counts, resamples: int, seed: int) -> NDArray[np.float64]:
    """WER (percent) of every bootstrap sample that holds a reference word; `errors` may be differences."""
    columns = np.stack([np.asarray(errors, np.float64), np.asarray(words, np.float64)], axis=1)
    sums = np.concatenate(list(resampled_sums(columns, resamples, seed)))
    sums = sums[sums[:, 1] > 0]
    return 100.0 * sums[:, 0] / sums[:, 1]


def wer_interval(
    errors: Counts, words: Counts, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """95 % percentile interval of the corpus WER in percent.

    Args:
        errors: word errors of each utterance `(N,)`.
        words: reference words of each utterance `(N,)`.
        seed: of the draws.
        resamples: number of bootstrap samples.

    Returns:
        (low, high), or None for fewer than two utterances or no reference words: nothing to resample.

    >>> wer_interval([1, 1, 1], [10, 10, 10], seed=0)
    (10.0, 10.0)
    """
    check_counts(errors, words)
    if len(errors) < 2 or not np.sum(words):
        return None
    return percentile_interval(resampled_rates(errors, words, resamples, seed))


def paired_difference(
    errors: Counts, baseline_errors: Counts, words: Counts, seed: int, resamples: int = RESAMPLES
) -> Difference | None:
    """Difference of two systems' corpus WER over the same utterances, with interval and p value.

    The p value counts resampled differences on the other side of zero, `2 (k + 1) / (n + 1)`, at most 1:
    it is never 0, and the smallest that 10,000 resamples can show is 0.0002.

    Args:
        errors: word errors of each utterance `(N,)`.
        baseline_errors: the baseline's, of the same utterances in the same order `(N,)`.
        words: reference words of each utterance `(N,)`.
        seed: of the draws.
        resamples: number of bootstrap samples.

    Returns:
        The difference, or None for fewer than two utterances or no reference words.
    """
    check_counts(errors, words)
    check_counts(baseline_errors, words)
    if len(errors) < 2 or not np.sum(words):
        return None
    gap = np.asarray(errors, np.int64) - np.asarray(baseline_errors, np.int64)
    rates = resampled_rates(gap, words, resamples, seed)
    other_side = min(int(np.sum(rates <= 0)), int(np.sum(rates >= 0)))
    return Difference(
        mean=100.0 * float(gap.sum()) / float(np.sum(words)),
        ci95=percentile_interval(rates),
        p_value=min(1.0, 2.0 * (other_side + 1) / (len(rates) + 1)),
    )


def percentile_interval(rates: NDArray[np.float64]) -> tuple[float, float]:
    """2.5 and 97.5 % points, linearly interpolated."""
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def check_counts(errors: Counts, words: Counts) -> None:
    """Both must be one count per utterance.

    Raises:
        ValueError: the lengths differ, or a count of reference words is negative.
    """
    if len(errors) != len(words):
        raise ValueError(f"errors of {len(errors)} utterances but reference words of {len(words)}")
    if len(words) and np.min(words) < 0:
        raise ValueError("reference words of an utterance cannot be negative")
