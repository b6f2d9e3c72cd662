"""Error counts against an edit distance of our own, their sums, buckets and worst cases."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.evaluation.error_rates import (
    ErrorCounts,
    count_errors,
    count_utterances,
    duration_bucket,
    error_fields,
    total,
    wer_by_duration,
    worst_utterances,
)

TEXTS = st.lists(st.sampled_from(["a", "b", "cc"]), max_size=4).map(" ".join)


def edit_distance(reference: list[str] | str, hypothesis: list[str] | str) -> int:
    row = list(range(len(hypothesis) + 1))
    for i, one in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, two in enumerate(hypothesis, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != two))
    return row[-1]


@settings(deadline=None, max_examples=100)
@given(TEXTS, TEXTS)
def test_counts_equal_the_edit_distance(reference: str, hypothesis: str) -> None:
    counts = count_errors(reference, hypothesis)
    assert counts.errors == edit_distance(reference.split(), hypothesis.split())
    assert counts.character_errors == edit_distance(reference, hypothesis)
    assert counts.reference_words == len(reference.split())
    assert counts.reference_characters == len(reference)
    assert counts.hits + counts.substitutions + counts.insertions == len(hypothesis.split())


def test_empty_hypothesis_is_all_deletions() -> None:
    counts = count_errors("one two", "")
    assert (counts.deletions, counts.errors, counts.wer, counts.cer) == (2, 2, 100.0, 100.0)


def test_empty_reference_counts_insertions_and_has_no_rate_of_its_own() -> None:
    counts = count_errors("", "one two")
    assert (counts.insertions, counts.reference_words, counts.wer) == (2, 0, None)
    assert count_errors("", "").errors == 0


def test_corpus_rate_is_not_the_mean_of_utterance_rates() -> None:
    both = count_errors("a", "b") + count_errors("a b c d e f g h i", "a b c d e f g h i")
    assert both.wer == 10.0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=6), st.integers(0, 6))
def test_counts_of_two_ranks_add_up_to_those_of_one(pairs: list[tuple[str, str]], cut: int) -> None:
    counts = [count_errors(*pair) for pair in pairs]
    halves = sum(counts[:cut], ErrorCounts()) + sum(counts[cut:], ErrorCounts())
    assert asdict(halves) == asdict(sum(counts, ErrorCounts()))
    assert halves.utterances == len(pairs)


def test_an_utterance_may_not_count_twice() -> None:
    with pytest.raises(ValueError, match="'a' is counted twice"):
        count_utterances(["a", "a"], ["x", "x"], ["x", "x"], [1, 1])


def test_durations_fall_in_their_buckets() -> None:
    assert [duration_bucket(s) for s in (0.0, 1.99, 2.0, 4.0, 8.0)] == ["0-2s", "0-2s", "2-4s", "4-8s", "8s+"]
    errors = count_utterances(["a", "b"], ["one two", "three"], ["one", "three four"], [1.0, 3.0])
    buckets = wer_by_duration(errors)
    assert list(buckets) == ["0-2s", "2-4s"]
    counted = {"utterances": 1, "reference_words": 2, "substitutions": 0, "deletions": 1, "insertions": 0}
    assert buckets["0-2s"] == counted | {"wer": 50.0}
    assert sum(bucket["reference_words"] for bucket in buckets.values()) == total(errors).reference_words


def test_worst_come_first_and_faultless_not_at_all() -> None:
    errors = count_utterances(["a", "b", "c"], ["x y", "x y z", "x"], ["x q", "", "x"], [1, 1, 1])
    assert [item.id for item in worst_utterances(errors)] == ["b", "a"]


def test_paired_fields_need_the_same_utterances() -> None:
    one = count_utterances(["a", "b"], ["x", "y"], ["x", "z"], [1, 1])
    two = count_utterances(["b", "a"], ["y", "x"], ["y", "x"], [1, 1])
    with pytest.raises(ValueError, match="same utterances in the same order"):
        error_fields(one, 0, two)
    fields = error_fields(one, 0, list(reversed(two)))
    assert fields["wer"] == 50.0 and fields["delta_wer_vs_float"]["mean"] == 50.0
    assert error_fields(one, 0)["delta_wer_vs_float"] is None


def test_no_utterances_give_nulls() -> None:
    fields = error_fields([], 0)
    assert fields["utterances"] == 0 and fields["wer"] is None and fields["wer_ci95"] is None
