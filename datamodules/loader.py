"""The data set of every loader, what training needs of a loader, and one that resumes in the middle of an epoch."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.audio import AudioCache
from datamodules.augment import Augmentation, augment
from datamodules.batch import Batch, collate
from datamodules.corrupt import Skipped
from datamodules.sampler import AudioBatchSampler, Key, OrderedBatchSampler
from datamodules.utterance import Utterance
from qat.system.errors import UserError


class UtteranceDataset(Dataset[tuple[Utterance, Tensor]]):
    """Decodes an utterance by (epoch, index).

    Args:
        utterances: what the index counts.
        cache: where decoded audio is kept.
        augment_seed: None leaves the audio as it is; an integer augments, keyed by (seed, epoch, id).
        augmentation: how strongly.
        skipped: counts what cannot be read, which batches then lack; None: nothing may be skipped.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        cache: AudioCache,
        augment_seed: int | None = None,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 - frozen
        skipped: Skipped | None = None,
    ) -> None:
        self._utterances, self._cache, self._augment_seed = utterances, cache, augment_seed
        self._augmentation, self._skipped = augmentation, skipped

    def __getitem__(self, key: Key) -> tuple[Utterance, Tensor]:
        epoch, index = key
        utterance = self._utterances[index]
        signal = self._cache.load(utterance.audio)
        if self._augment_seed is not None:
            signal = augment(signal, self._augment_seed, epoch, utterance.id, self._augmentation)
        return utterance, signal

    def __getitems__(self, keys: Sequence[Key]) -> list[tuple[Utterance, Tensor]]:
        """A batch; where nothing of it can be read, the utterance of the nearest length that can be.

        Every rank must get a batch, as the others wait for it; and one utterance always fits.

        Raises:
            UserError: more cannot be read than may be skipped, or nothing can.
        """
        if self._skipped is None:
            return [self[key] for key in keys]
        if found := list(self._readable(keys)):
            return found
        epoch, longest = keys[0][0], max(self._utterances[index].duration_s for _, index in keys)
        nearest = sorted(
            range(len(self)), key=lambda index: abs(self._utterances[index].duration_s - longest)
        )
        if (first := next(self._readable([(epoch, index) for index in nearest]), None)) is None:
            raise UserError(
                "train: no utterance can be read; must be at least one; copy the recordings again"
            )
        return [first]

    def _readable(self, keys: Iterable[Key]) -> Iterator[tuple[Utterance, Tensor]]:
        assert self._skipped is not None
        for key in keys:
            try:
                yield self[key]
            except UserError as error:
                self._skipped.add(self._utterances[key[1]].audio, str(error))

    def __len__(self) -> int:
        return len(self._utterances)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raises the `UserError` of a worker process as one line: PyTorch wraps it in a traceback of many."""
    try:
        yield
    except UserError as error:
        last_line = str(error).strip().splitlines()[-1]
        kind = type(error)
        raise UserError(last_line.removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")) from None


def end_with_parent(worker: int) -> None:
    """Lets a worker process, as it starts, end with the process that it loads for, also when that one is killed.

    PyTorch's own watchdog watches the parent, which is the fork server if there is one: the server and its workers
    would never end, and never free their memory. Ctrl-C, which a terminal sends to all processes, is the parent's to
    obey: it still needs batches to end its step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_after_parent() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=end_after_parent, daemon=True).start()


class TrainLoader(Protocol):
    """What training needs of a loader: batches, and a position that a checkpoint keeps."""

    @property
    def position(self) -> int:
        """Batches of the current epoch that were yielded."""

    def __len__(self) -> int:
        """Batches per epoch."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches of an epoch, or what is left of it after `load_state_dict`."""

    def state_dict(self) -> dict[str, Any]:
        """The position, as builtins."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from a position."""


class SpeechLoader(DataLoader[Any]):
    """A loader of `Batch`.

    It starts lazily, because Lightning asks for the iterator before it sets the epoch. It saves and restores
    its position: Lightning keeps the state of a loader that has `state_dict` and `load_state_dict`.

    Args:
        dataset: what to load.
        batch_sampler: which utterances go together.
        num_workers: processes that decode audio.
        multiple: samples that the padded length of a batch is a multiple of.
    """

    def __init__(
        self,
        dataset: UtteranceDataset,
        batch_sampler: AudioBatchSampler | OrderedBatchSampler,
        num_workers: int = 0,
        multiple: int = 1,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=partial(collate, multiple=multiple),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=end_with_parent,
            persistent_workers=num_workers > 0,  # each worker keeps the audio that it has decoded
        )
        self._batches = batch_sampler
        self._state = {"epoch": 0, "position": 0, "length": 0}
        self._resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # DataLoader names its private iterator
        epoch = getattr(self._batches, "epoch", 0)
        start = self._take_resume_position(epoch)
        self._state = {"epoch": epoch, "position": start, "length": len(self)}
        if isinstance(self._batches, AudioBatchSampler):
            self._batches.start = start
        with plain_errors():
            for batch in super().__iter__():
                self._state["position"] += 1
                yield batch

    def _take_resume_position(self, epoch: int) -> int:
        saved, self._resume = self._resume, None
        if saved is None or saved["epoch"] != epoch or saved["length"] != len(self):
            return 0
        return saved["position"]

    @property
    def position(self) -> int:
        """Batches of the current epoch that were yielded."""
        return self._state["position"]

    def state_dict(self) -> dict[str, int]:
        """Epoch, number of batches yielded in it, and how many it has."""
        return dict(self._state)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Lets the next iteration, if it is of the same epoch, skip the batches already yielded."""
        self._resume = dict(state_dict)
