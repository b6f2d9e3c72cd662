"""Corpora too large to list: sharded tar files and JSON lines read as a stream that resumes from a checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from datamodules.audio import load_audio
from datamodules.audio_file import SAMPLE_RATE
from datamodules.augment import SLOWEST, Augmentation, augment, keyed_generator
from datamodules.batch import Batch, collate
from datamodules.corrupt import count_skipped, too_long
from datamodules.leaks import LeakError
from datamodules.loader import end_with_parent, plain_errors
from datamodules.segments import Segment
from datamodules.utterance import Utterance
from qat.system.errors import UserError

WINDOW = 512  # utterances that are sorted into batches of similar length together


@dataclass
class Place:
    """How far one worker has read its stream; builtins, for checkpoints.

    Args:
        turn: passes over the corpus that are finished.
        segment: place in this worker's order of segments.
        offset: byte where the current window begins; None: at the segment's start.
        emitted: batches of the current window that were yielded.
        corrupt: items skipped so far.
    """

    turn: int = 0
    segment: int = 0
    offset: int | None = None
    emitted: int = 0
    corrupt: int = 0


@dataclass(frozen=True)
class StreamSettings:
    """How a stream becomes batches.

    Args:
        max_batch_s: seconds of audio in a batch at most, padding included.
        pad_to_s: batches are padded to a multiple of this; 0 pads to the longest utterance.
        seed: order of segments, batches and all augmentation follow from it.
        augmentation: None leaves the audio as it is.
        max_corrupt: items that a worker may skip because they cannot be read; one more is an error.
        audio_root: folder that relative paths of JSON lines start from; None: the file's own.
        window: utterances that are sorted into batches together.
    """

    max_batch_s: float
    pad_to_s: float = 0.0
    seed: int = 0
    augmentation: Augmentation | None = None
    max_corrupt: int = 0
    audio_root: Path | None = None
    window: int = WINDOW


@dataclass(eq=False)
class SpeechStream(IterableDataset[Batch]):
    """An endless stream of batches over a corpus, pass after pass; every pass reads each utterance once.

    Segments are divided among all workers of all ranks; each worker sorts a window of utterances into batches, so its
    memory does not grow with the corpus. `state_dict` is a few numbers: the window is read again on resuming.

    Args:
        segments: of the corpus, at least one per worker.
        settings: of the batches.
        rank: of this process.
        world: number of processes.
        check: called with each recording of the first pass before it is decoded; raises `UserError` where it may not be
            trained on.
    """

    segments: Sequence[Segment]
    settings: StreamSettings
    rank: int = 0
    world: int = 1
    place: Place = field(default_factory=Place)
    check: Callable[[Utterance], None] | None = None

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self.one_pass()
            self.place = Place(turn=self.place.turn + 1, corrupt=self.place.corrupt)

    def one_pass(self) -> Iterator[Batch]:
        """The rest of the current pass."""
        order = self.order()
        while self.place.segment < len(order):
            window, after = self.read_window(order)
            batches = self.batches(window)
            for batch in batches[self.place.emitted :]:
                self.place.emitted += 1
                if (loaded := self.load(batch)) is not None:
                    yield loaded
            self.place = replace(after, corrupt=self.place.corrupt)

    def order(self) -> list[Segment]:
        """This worker's segments in the current pass.

        Raises:
            UserError: there are fewer segments than workers.
        """
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        total = self.world * workers
        if len(self.segments) < total:
            raise UserError(
                f"train: {len(self.segments)} segments (tar files, or megabytes of JSON lines) for {total} workers "
                f"({self.world} processes of {workers}); must be at least one each; lower num_workers"
            )
        generator = keyed_generator(self.settings.seed, "segments", self.place.turn)
        shuffled = torch.randperm(len(self.segments), generator=generator).tolist()
        return [self.segments[index] for index in shuffled[self.rank * workers + worker :: total]]

    def read_window(self, order: Sequence[Segment]) -> tuple[list[Utterance], Place]:
        """The next utterances, at most a window of them, and the position after them."""
        window: list[Utterance] = []
        place = replace(self.place, emitted=0)
        first_time = self.place.emitted == 0  # otherwise its bad items have been counted
        while place.segment < len(order) and len(window) < self.settings.window:
            segment = order[place.segment]
            start = segment.start if place.offset is None else place.offset
            for place.offset, item in segment.items(start, self.settings.audio_root):
                if isinstance(item, Utterance) and item.duration_s <= self.longest:
                    window.append(item)
                elif first_time:
                    self.skip(item)
                if len(window) == self.settings.window:
                    break
            else:
                place = replace(place, segment=place.segment + 1, offset=None)
        return window, place

    @property
    def longest(self) -> float:
        """Seconds of the longest utterance that a batch can hold, with room for slower speech under augmentation."""
        return self.settings.max_batch_s * (SLOWEST if self.settings.augmentation else 1.0)

    def skip(self, item: Utterance | UserError) -> None:
        """Counts and logs what cannot be used.

        Raises:
            UserError: more than `max_corrupt` items were skipped.
        """
        reason = too_long(item, self.settings.max_batch_s) if isinstance(item, Utterance) else str(item)
        self.place.corrupt += 1
        count_skipped(reason, self.place.corrupt, self.settings.max_corrupt)

    def batches(self, window: Sequence[Utterance]) -> list[list[Utterance]]:
        """Groups a window into batches of similar length, in a random order."""
        stretch = 1.0 / SLOWEST if self.settings.augmentation else 1.0
        found: list[list[Utterance]] = []
        for item in sorted(window, key=lambda item: (item.duration_s, item.id)):
            if not found or (len(found[-1]) + 1) * item.duration_s * stretch > self.settings.max_batch_s:
                found.append([])  # the item is the longest of its batch
            found[-1].append(item)
        key = (self.settings.seed, "batches", self.place.turn, window[0].id if window else "")
        return [
            found[index] for index in torch.randperm(len(found), generator=keyed_generator(*key)).tolist()
        ]

    def load(self, batch: Sequence[Utterance]) -> Batch | None:
        """Decodes and augments; skips what cannot be decoded; None if nothing is left."""
        pairs: list[tuple[Utterance, Tensor]] = []
        for item in batch:
            try:
                if self.check is not None and self.place.turn == 0:
                    self.check(item)
                signal = load_audio(item.audio)
            except LeakError:
                raise
            except UserError as error:
                self.skip(error)
                continue
            if self.settings.augmentation is not None:
                signal = augment(
                    signal, self.settings.seed, self.place.turn, item.id, self.settings.augmentation
                )
            pairs.append((item, signal))
        return collate(pairs, max(1, round(self.settings.pad_to_s * SAMPLE_RATE))) if pairs else None

    def state_dict(self) -> dict[str, Any]:
        """The position, as builtins."""
        return dict(vars(self.place))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from a position."""
        self.place = Place(**state_dict)


class StreamLoader:
    """Batches of an endless stream, `length` per epoch; resumes where a checkpoint stopped.

    Args:
        stream: of this rank.
        length: batches in an epoch, the same on every rank.
        num_workers: processes that decode.
    """

    def __init__(self, stream: SpeechStream, length: int, num_workers: int = 0) -> None:
        self.loader: StatefulDataLoader[Batch] = StatefulDataLoader(
            stream,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=end_with_parent,
        )
        self.length, self.position, self.epoch = length, 0, 0
        self.iterator: Iterator[Batch] | None = None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        if self.iterator is None:
            self.iterator = iter(self.loader)
        if self.position >= self.length:
            self.position, self.epoch = 0, self.epoch + 1
        with plain_errors():
            while self.position < self.length:
                self.position += 1
                yield next(self.iterator)

    def state_dict(self) -> dict[str, Any]:
        """Position in the epoch and position of every worker."""
        place = {"epoch": self.epoch, "position": self.position, "length": self.length}
        return {**place, "loader": self.loader.state_dict() if self.iterator is not None else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from there."""
        self.position, self.epoch, self.iterator = state_dict["position"], state_dict["epoch"], None
        if state_dict["loader"] is not None:
            self.loader.load_state_dict(state_dict["loader"])
