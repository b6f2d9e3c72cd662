from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import sampler
from datamodules.sampler import AudioBatchSampler, OrderedBatchSampler, split_to_multiple
from qat.system.errors import UserError

DURATIONS = np.random.default_rng(0).gamma(4.0, 1.0, 300).clip(0.5, 20.0).tolist()
corpora = st.lists(st.floats(0.1, 30.0), min_size=1, max_size=60)


def epoch_of(batches, epoch=0):
    batches.sampler.set_epoch(epoch)  # the way Lightning finds it
    return list(batches)


def on_ranks(make, world, epoch=0):
    """What each of `world` processes would iterate over."""
    shards, lengths = [], []
    for rank in range(world):
        with patch.object(sampler, "rank_and_world", lambda rank=rank: (rank, world)):
            batches = make()
            shards.append(epoch_of(batches, epoch) if hasattr(batches, "set_epoch") else list(batches))
            lengths.append(len(batches))
    assert lengths == [len(shard) for shard in shards]
    return shards


def indices(batches):
    return [index for batch in batches for _, index in batch]


@settings(max_examples=50, deadline=None)
@given(corpora, st.integers(1, 30), st.booleans(), st.integers(0, 3))
def test_every_utterance_comes_once_and_padded_batches_keep_the_bound(durations, buckets, shuffle, epoch):
    batches = AudioBatchSampler(durations, 30.0, buckets, shuffle)
    listed = epoch_of(batches, epoch)
    assert sorted(indices(listed)) == list(range(len(durations)))
    assert len(batches) == len(listed)
    assert all(len(b) * max(durations[i] for _, i in b) <= 30.0 * (1 + 1e-9) for b in listed)


@settings(max_examples=50, deadline=None)
@given(corpora, st.integers(2, 5), st.integers(0, 3))
def test_training_ranks_take_equally_many_steps_and_share_the_utterances(durations, world, epoch):
    shards = on_ranks(lambda: AudioBatchSampler(durations, 30.0, seed=1), world, epoch)
    assert len({len(shard) for shard in shards}) == 1
    seen = [index for shard in shards for index in indices(shard)]
    assert set(seen) == set(range(len(durations)))
    repeats = len(seen) - len(durations)
    assert repeats == 0 or all(len(batch) == 1 for shard in shards for batch in shard), (
        "split before repeating"
    )
    assert repeats < world


@settings(max_examples=50, deadline=None)
@given(corpora, st.integers(2, 5), st.integers(1, 4))
def test_evaluation_ranks_partition_the_utterances_without_repeats(durations, world, batch_size):
    for make in (
        lambda: AudioBatchSampler(durations, 30.0, shuffle=False, repeat=False),
        lambda: OrderedBatchSampler(len(durations), batch_size, shard=True),
    ):
        seen = [index for shard in on_ranks(make, world) for index in indices(shard)]
        assert sorted(seen) == list(range(len(durations)))


def test_batches_follow_from_seed_and_epoch_alone():
    def batches(seed, epoch, before=()):
        made = AudioBatchSampler(DURATIONS, 60.0, seed=seed)
        for earlier in before:
            epoch_of(made, earlier)
        return epoch_of(made, epoch)

    assert batches(0, 3) == batches(0, 3, before=[0, 1, 2]) == batches(0, 3, before=[3, 7])
    plain = [
        [[i for _, i in b] for b in batches(seed, epoch)] for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    assert all(a != b for n, a in enumerate(plain) for b in plain[:n])


def test_iterating_twice_without_a_new_epoch_repeats_the_batches():
    batches = AudioBatchSampler(DURATIONS, 60.0)
    assert list(batches) == list(batches)


def test_number_of_batches_is_the_same_in_every_epoch():
    batches = AudioBatchSampler(DURATIONS, 60.0)
    assert len({len(epoch_of(batches, epoch)) for epoch in range(5)}) == 1


def test_keys_carry_the_epoch():
    assert {epoch for batch in epoch_of(AudioBatchSampler(DURATIONS, 60.0), 4) for epoch, _ in batch} == {4}


def test_batches_are_well_filled_and_alike_in_length():
    listed = epoch_of(AudioBatchSampler(DURATIONS * 4, 60.0))
    audio_s = sum(DURATIONS) * 4
    padded_s = sum(len(b) * max((DURATIONS * 4)[i] for _, i in b) for b in listed)
    assert audio_s / padded_s > 0.9, "little padding"
    assert padded_s / len(listed) > 0.8 * 60.0, "full batches"


def test_without_shuffling_short_utterances_come_first():
    listed = list(AudioBatchSampler(DURATIONS, 60.0, shuffle=False))
    longest = [max(DURATIONS[i] for _, i in b) for b in listed]
    assert longest == sorted(longest)


def test_ordered_batches_keep_the_order_and_every_rank_sees_all_unless_sharded():
    assert list(OrderedBatchSampler(5, 2)) == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)]]
    assert on_ranks(lambda: OrderedBatchSampler(3), 2) == [[[(0, 0)], [(0, 1)], [(0, 2)]]] * 2
    assert on_ranks(lambda: OrderedBatchSampler(3, shard=True), 2) == [[[(0, 0)], [(0, 2)]], [[(0, 1)]]]


def test_fewer_utterances_than_ranks_are_repeated_so_that_no_rank_waits_forever():
    assert split_to_multiple([[0]], world=3) == [[0], [0], [0]]
    assert split_to_multiple([[0, 1]], world=3) == [[0], [1], [0]]


def test_bad_arguments_name_the_value():
    with pytest.raises(
        UserError, match=r"max_batch_s is 5, but an utterance needs 6\.00 s; must be at least"
    ):
        AudioBatchSampler([1.0, 6.0], 5.0)
    with pytest.raises(UserError, match="no utterance"):
        AudioBatchSampler([], 5.0)
    with pytest.raises(UserError, match="batch_size is 0"):
        OrderedBatchSampler(3, 0)
