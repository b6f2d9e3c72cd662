"""Batches by seconds of audio, the same for the same (seed, epoch), and divided among processes.

The batches themselves come from SpeechBrain's `DynamicBatchSampler`.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from speechbrain.dataio.sampler import DynamicBatchSampler
from torch.utils.data import Sampler

from qat.system.errors import UserError
from qat.system.ranks import rank_and_world

Key = tuple[int, int]
"""(epoch, index): the epoch travels with the index, so that worker processes augment for the right epoch."""

logging.getLogger("speechbrain.dataio.sampler").setLevel(logging.WARNING)  # it reports every epoch
_BATCHES_PER_BUCKET = 4  # fewer would leave many half-filled last batches in a small corpus
_SPREAD = 1.5  # longest over shortest of a bucket: the longest says how many utterances fit a batch


def bucket_boundaries(durations: Sequence[float], max_batch_s: float, num_buckets: int) -> list[float]:
    """Upper ends, in seconds, of at most `num_buckets` buckets that hold equally many utterances each.

    A bucket is divided where its longest is much longer than its shortest: otherwise, with one recording of 15 s among
    many of 4 s, every batch would hold one or two utterances only.

    >>> bucket_boundaries([float(i) for i in range(101, 201)], max_batch_s=500.0, num_buckets=4)
    [125.75, 150.5, 175.25, 200.0]
    >>> bucket_boundaries([4.0] * 99 + [16.0], max_batch_s=32.0, num_buckets=4)
    [4.0, 6.0, 9.0, 13.5, 16.0]
    """
    worthwhile = int(sum(durations) / (max_batch_s * _BATCHES_PER_BUCKET))
    count = max(1, min(num_buckets, worthwhile))
    ends = sorted({float(b) for b in np.quantile(durations, np.linspace(0.0, 1.0, count + 1)[1:])})
    return [
        end for low, high in zip([min(durations), *ends], ends, strict=False) for end in _divide(low, high)
    ]


def _divide(low: float, high: float) -> Iterator[float]:
    """Upper ends of the parts of the bucket from `low` to `high`."""
    while low > 0.0 and low * _SPREAD < high:
        low *= _SPREAD
        yield low
    yield high


def split_to_multiple(batches: list[list[int]], world: int, repeat: bool = True) -> list[list[int]]:
    """Splits the fullest batches in two until their number is a multiple of `world`.

    Every rank then takes equally many steps, and no utterance is dropped or seen twice. Only when every batch
    is down to one utterance are some repeated, or, without `repeat`, the number is left as it is.

    >>> split_to_multiple([[1, 2, 3, 4], [5, 6], [7]], world=2)
    [[1, 2], [5, 6], [7], [3, 4]]
    >>> split_to_multiple([[1, 2], [3]], world=2, repeat=False), split_to_multiple([[1, 2, 3]], 2, repeat=False)
    ([[1, 2], [3]], [[1], [2, 3]])
    >>> split_to_multiple([[1], [2], [3]], world=2, repeat=False)
    [[1], [2], [3]]
    """
    batches = [list(batch) for batch in batches]
    while len(batches) % world:
        fullest = max(range(len(batches)), key=lambda i: len(batches[i]))
        half = len(batches[fullest]) // 2
        if half == 0:
            if not repeat:
                break
            batches += batches[: -len(batches) % world]
            continue
        batches.append(batches[fullest][half:])
        batches[fullest] = batches[fullest][:half]
    return batches


class AudioBatchSampler(Sampler[list[Key]]):
    """Yields batches of (epoch, index); padding included, a batch holds at most `max_batch_s` seconds.

    Args:
        durations: seconds of each utterance, after any stretching that augmentation may do.
        max_batch_s: bound on a batch's padded seconds: utterances times the longest of them.
        num_buckets: utterances of one bucket have similar lengths; small corpora use fewer.
        shuffle: new batches each epoch (training), or one fixed order (evaluation).
        seed: (seed, epoch) determines the batches.
        repeat: where splitting cannot give each rank equally many batches, repeat some (training); else shards
            differ by one (evaluation: nothing is counted twice).

    Raises:
        UserError: an utterance alone is longer than `max_batch_s`, or there is no utterance.
    """

    def __init__(
        self,
        durations: Sequence[float],
        max_batch_s: float,
        num_buckets: int = 20,
        shuffle: bool = True,
        seed: int = 0,
        repeat: bool = True,
    ) -> None:
        if not durations:
            raise UserError("there is no utterance to make batches of; must be at least one")
        if max(durations) > max_batch_s:
            raise UserError(
                f"max_batch_s is {max_batch_s:g}, but an utterance needs {max(durations):.2f} s; must be "
                "at least the longest utterance (with room for slower speech when augment is on)"
            )
        self._batches = DynamicBatchSampler(
            range(len(durations)),
            max_batch_length=max_batch_s,
            bucket_boundaries=bucket_boundaries(durations, max_batch_s, num_buckets),
            lengths_list=list(durations),
            shuffle=shuffle,
            batch_ordering="random" if shuffle else "ascending",
            seed=seed * 1_000_003,  # SpeechBrain adds the epoch; seed 1 is not seed 0 one epoch later
        )
        self._repeat = repeat
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> "AudioBatchSampler":
        """Itself: Lightning calls `dataloader.batch_sampler.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Makes the batches of this epoch, the same whatever was iterated before."""
        self.epoch = epoch
        self._batches.set_epoch(epoch)

    def batches(self) -> list[list[int]]:
        """This rank's batches of the current epoch, as indices."""
        # SpeechBrain reshuffles when its iterator is exhausted: ask for no more than its batches
        batches = list(islice(iter(self._batches), len(self._batches)))
        rank, world = rank_and_world()
        return split_to_multiple(batches, world, self._repeat)[rank::world]

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.batches()[self.start :]:
            yield [(self.epoch, index) for index in batch]

    def __len__(self) -> int:
        _, world = rank_and_world()
        if self._repeat:
            return -(-len(self._batches) // world)
        return len(self.batches())


class OrderedBatchSampler(Sampler[list[Key]]):
    """Yields consecutive utterances, `batch_size` at a time; ranks may take every n-th batch.

    Args:
        count: number of utterances.
        batch_size: utterances per batch, at least 1.
        shard: rank r of n takes batches r, r + n, ...: nothing is repeated, so error counts can be summed.
    """

    def __init__(self, count: int, batch_size: int = 1, shard: bool = False) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; must be an integer from 1")
        self._count, self._batch_size, self._shard = count, batch_size, shard

    def _starts(self) -> range:
        rank, world = rank_and_world() if self._shard else (0, 1)
        return range(rank * self._batch_size, self._count, world * self._batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self._starts():
            yield [(0, index) for index in range(start, min(start + self._batch_size, self._count))]

    def __len__(self) -> int:
        return len(self._starts())
