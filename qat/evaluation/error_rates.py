"""Word and character error counts of utterances, their corpus sums, duration buckets and worst cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qat.evaluation.significance import paired_difference, wer_interval

DURATION_BUCKETS: tuple[tuple[str, float, float], ...] = (
    ("0-2s", 0.0, 2.0),
    ("2-4s", 2.0, 4.0),
    ("4-8s", 4.0, 8.0),
    ("8s+", 8.0, float("inf")),
)


@dataclass(frozen=True)
class ErrorCounts:
    """Edit counts of one utterance or of a sum of utterances; counts of several ranks merge by addition.

    >>> one = count_errors("turn the light on", "turn light onn")
    >>> one.substitutions, one.deletions, one.insertions, one.wer
    (1, 1, 0, 50.0)
    >>> (one + count_errors("stop", "stop")).wer
    40.0
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0
    reference_words: int = 0
    character_errors: int = 0
    reference_characters: int = 0
    utterances: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        mine, theirs = asdict(self), asdict(other)
        return ErrorCounts(**{key: mine[key] + theirs[key] for key in mine})

    @property
    def errors(self) -> int:
        """Word errors: substitutions + deletions + insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float | None:
        """Corpus word error rate in percent, at least 0, may exceed 100; None without reference words."""
        return 100.0 * self.errors / self.reference_words if self.reference_words else None

    @property
    def cer(self) -> float | None:
        """Corpus character error rate in percent (spaces count); None without reference characters."""
        characters = self.reference_characters
        return 100.0 * self.character_errors / characters if characters else None


@dataclass(frozen=True)
class UtteranceErrors:
    """The transcript of one utterance and the errors in it."""

    id: str
    reference: str
    hypothesis: str
    duration_s: float
    counts: ErrorCounts

    def to_dict(self) -> dict[str, Any]:
        """Flat builtins for the side file and the W&B table."""
        counts = self.counts
        return {
            "id": self.id,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            "duration_s": self.duration_s,
            "errors": counts.errors,
            "substitutions": counts.substitutions,
            "deletions": counts.deletions,
            "insertions": counts.insertions,
            "reference_words": counts.reference_words,
            "wer": counts.wer,
        }


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Minimum edit counts of one utterance; either text may be empty (all deletions or all insertions)."""
    import jiwer  # here, as stored results are compared without it

    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    return ErrorCounts(
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        hits=words.hits,
        reference_words=words.hits + words.substitutions + words.deletions,
        character_errors=characters.substitutions + characters.deletions + characters.insertions,
        reference_characters=characters.hits + characters.substitutions + characters.deletions,
        utterances=1,
    )


def count_utterances(
    ids: Sequence[str], references: Sequence[str], hypotheses: Sequence[str], durations_s: Sequence[float]
) -> list[UtteranceErrors]:
    """Errors of every utterance, in the given order.

    Raises:
        ValueError: the sequences differ in length, or an id comes twice (a padded sampler counts it twice).
    """
    if len(set(ids)) != len(ids):
        twice = next(name for position, name in enumerate(ids) if name in ids[:position])
        raise ValueError(f"utterance {twice!r} is counted twice; every utterance may count once")
    return [
        UtteranceErrors(name, reference, hypothesis, float(duration), count_errors(reference, hypothesis))
        for name, reference, hypothesis, duration in zip(
            ids, references, hypotheses, durations_s, strict=True
        )
    ]


def total(utterances: Iterable[UtteranceErrors]) -> ErrorCounts:
    """Sum over utterances: the corpus counts."""
    return sum((utterance.counts for utterance in utterances), ErrorCounts())


def duration_bucket(duration_s: float) -> str:
    """Name of the bucket a duration falls in; lower bounds are inclusive.

    >>> [duration_bucket(seconds) for seconds in (1.9, 2.0, 7.5, 60.0)]
    ['0-2s', '2-4s', '4-8s', '8s+']
    """
    return next(name for name, low, high in DURATION_BUCKETS if low <= duration_s < high)


def wer_by_duration(utterances: Sequence[UtteranceErrors]) -> dict[str, dict[str, Any]]:
    """Counts and corpus WER (percent) of each duration bucket that holds reference words."""
    buckets = {}
    for name, low, high in DURATION_BUCKETS:
        counts = total(item for item in utterances if low <= item.duration_s < high)
        if counts.reference_words:
            buckets[name] = {
                "utterances": counts.utterances,
                "reference_words": counts.reference_words,
                "wer": counts.wer,
                "substitutions": counts.substitutions,
                "deletions": counts.deletions,
                "insertions": counts.insertions,
            }
    return buckets


def error_fields(
    utterances: Sequence[UtteranceErrors], seed: int, baseline: Sequence[UtteranceErrors] | None = None
) -> dict[str, Any]:
    """The row's fields from `utterances` to `wer_by_duration`.

    Args:
        utterances: errors of the system, one per utterance.
        seed: of the bootstrap.
        baseline: errors of the float system on the same utterances in the same order; None: no difference.

    Raises:
        ValueError: the baseline has other utterances or another order.
    """
    counts = total(utterances)
    errors = [item.counts.errors for item in utterances]
    words = [item.counts.reference_words for item in utterances]
    difference = None
    if baseline is not None:
        if [(u.id, u.reference) for u in utterances] != [(u.id, u.reference) for u in baseline]:
            raise ValueError("paired bootstrap: both systems must have the same utterances in the same order")
        difference = paired_difference(errors, [item.counts.errors for item in baseline], words, seed)
    return {
        "utterances": counts.utterances,
        "reference_words": counts.reference_words,
        "wer": counts.wer,
        "wer_ci95": wer_interval(errors, words, seed),
        "cer": counts.cer,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "delta_wer_vs_float": difference.to_dict() if difference else None,
        "wer_by_duration": wer_by_duration(utterances),
    }


def worst_utterances(utterances: Sequence[UtteranceErrors], count: int = 50) -> list[UtteranceErrors]:
    """The `count` utterances with most word errors, most first, ties by WER, then id; only wrong ones."""
    wrong = [item for item in utterances if item.counts.errors]
    return sorted(wrong, key=lambda u: (-u.counts.errors, -(u.counts.wer or float("inf")), u.id))[:count]
