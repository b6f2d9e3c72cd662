"""The data set behind every loader, and a loader that resumes in the middle of an epoch."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.audio import AudioCache
from datamodules.augment import Augmentation, augment
from datamodules.batch import Batch, Utterance, collate
from datamodules.sampler import AudioBatchSampler, Key, OrderedBatchSampler
from qat.system.errors import UserError


class UtteranceDataset(Dataset[tuple[Utterance, Tensor]]):
    """Decodes an utterance by (epoch, index).

    Args:
        utterances: what the index counts.
        cache: where decoded audio is kept.
        augment_seed: None leaves the audio as it is; an integer augments, keyed by (seed, epoch, id).
        augmentation: how strongly.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        cache: AudioCache,
        augment_seed: int | None = None,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 - frozen
    ) -> None:
        self._utterances, self._cache, self._augment_seed = utterances, cache, augment_seed
        self._augmentation = augmentation

    def __getitem__(self, key: Key) -> tuple[Utterance, Tensor]:
        epoch, index = key
        utterance = self._utterances[index]
        signal = self._cache.load(utterance.audio)
        if self._augment_seed is not None:
            signal = augment(signal, self._augment_seed, epoch, utterance.id, self._augmentation)
        return utterance, signal

    def __len__(self) -> int:
        return len(self._utterances)


@contextmanager
def plain_errors() -> Iterator[None]:
    """A worker process wraps what it raises into a traceback of many lines: raise its `UserError` as it was."""
    try:
        yield
    except UserError as error:
        last_line = str(error).strip().splitlines()[-1]
        raise UserError(last_line.removeprefix("qat.system.errors.UserError: ")) from None


def end_with_parent(worker: int) -> None:
    """Start of a worker process: end when the process that it loads for is gone, also where that was killed.

    PyTorch's own watchdog looks at the parent, which is a fork server where processes are started through one: it
    and its workers would live on, and hold their memory, for ever.
    """
    parent = multiprocessing.parent_process()

    def follow() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=follow, daemon=True).start()


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

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
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
        """Batches of the current epoch that were handed out."""
        return self._state["position"]

    def state_dict(self) -> dict[str, int]:
        """Epoch, number of batches that were handed out in it, and how many it has."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration, if it is of the same epoch, goes on after the batches handed out."""
        self._resume = dict(state)
