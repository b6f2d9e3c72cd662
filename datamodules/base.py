"""What every data module does: splits of utterances, and loaders of batches over them."""

import hashlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from datamodules.audio import AudioCache
from datamodules.audio_file import SAMPLE_RATE
from datamodules.augment import SLOWEST, Augmentation
from datamodules.corrupt import Skipped, too_long
from datamodules.loader import SpeechLoader, TrainLoader, UtteranceDataset
from datamodules.sampler import AudioBatchSampler, OrderedBatchSampler
from datamodules.utterance import Utterance, describe_split, evenly_spaced
from qat.system.errors import UserError
from qat.system.ranks import rank_and_world

_log = logging.getLogger(__name__)
_CACHE_LIMIT_S = 4 * 3600.0


class SpeechDataModule(LightningDataModule, ABC):
    """Speech with transcripts, in the splits "train", "dev" and one or more test splits.

    Subclasses set `test_splits` and implement `read_split`.

    Args:
        max_batch_s: seconds of audio in a training or validation batch at most, padding included.
        pad_to_s: training batches are padded to a multiple of this, so that few shapes occur: on a CPU the first
            convolution of each shape costs two or three times as much as a later one. 0 pads to the longest utterance.
        num_buckets: utterances of similar length are batched together; this many classes of length at most.
        num_workers: processes that decode audio for training; 0 decodes in the training process. Calibration and tests
            use them too, unless `cache` is on.
        augment: vary speed, room, noise and gain of the training audio; never for evaluation or calibration.
        room_share: share of the augmented utterances that get the reverberation of a room, in [0, 1].
        noise_share: share of them that get noise, in [0, 1].
        noise_snr_db: range of the signal-to-noise ratio, lowest first.
        seed: order of the batches and all augmentation follow from (seed, epoch).
        max_train_utterances: train on this many, evenly spaced over the split; null uses all.
        max_test_utterances: the same for dev and each test split.
        cache: keep decoded audio in memory, up to four hours of it (460 MB), divided among the workers.
        max_unalignable: share of the training utterances whose text may need more frames than the model emits for their
            audio, so that CTC learns nothing from them, in [0, 1]; more of them stop the run.
        max_corrupt: training items that may be skipped, by each worker, because they cannot be read or are longer than
            a batch; each is logged, one more is an error.
    """

    def __init__(
        self,
        max_batch_s: float = 60.0,
        pad_to_s: float = 0.0,
        num_buckets: int = 20,
        num_workers: int = 0,
        augment: bool = False,
        room_share: float = Augmentation.room_share,
        noise_share: float = Augmentation.noise_share,
        noise_snr_db: tuple[float, float] = Augmentation.noise_snr_db,
        seed: int = 0,
        max_train_utterances: int | None = None,
        max_test_utterances: int | None = None,
        cache: bool = False,
        max_unalignable: float = 0.05,
        max_corrupt: int = 0,
    ) -> None:
        super().__init__()
        _check_positive(
            max_batch_s=max_batch_s,
            num_buckets=num_buckets,
            max_train_utterances=max_train_utterances,
            max_test_utterances=max_test_utterances,
        )
        if not 0.0 <= pad_to_s < torch.inf:
            raise UserError(f"pad_to_s is {pad_to_s}; must be a number from 0")
        for name, count in (("num_workers", num_workers), ("max_corrupt", max_corrupt)):
            if count < 0:
                raise UserError(f"{name} is {count}; must be an integer from 0")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed is {seed}; must be an integer from 0, below 2^32")
        if not 0.0 <= max_unalignable <= 1.0:
            raise UserError(f"max_unalignable is {max_unalignable}; must be a number from 0 to 1")
        self.max_unalignable = max_unalignable
        self.max_corrupt = max_corrupt
        self.skipped = Skipped(max_corrupt)
        self.max_batch_s = max_batch_s
        self.pad_to_s = pad_to_s
        self.num_buckets = num_buckets
        self.num_workers = num_workers
        self.augment = augment
        self.augmentation = Augmentation(room_share, noise_share, noise_snr_db)
        self.seed = seed
        self.max_train_utterances = max_train_utterances
        self.max_test_utterances = max_test_utterances
        self.test_splits: list[str] = []
        self._cache = AudioCache(_CACHE_LIMIT_S / max(1, num_workers) if cache else 0.0)
        self._read: dict[str, list[Utterance]] = {}
        self._train_loader: TrainLoader | None = None
        self._resume: dict[str, Any] | None = None

    @abstractmethod
    def read_split(self, split: str) -> list[Utterance]:
        """Reads and checks the whole of "train", "dev" or a test split; called once per split.

        Raises:
            UserError: one line that names the file, the line in it, the value and what it must be.
        """

    def utterances(self, split: str) -> list[Utterance]:
        """The utterances of "train", "dev" or one of `test_splits`, in manifest order, after the limits.

        Raises:
            UserError: the split is unknown, cannot be read, or is empty.
        """
        allowed = ["train", "dev", *self.test_splits]
        if split not in allowed:
            raise UserError(f"unknown split {split!r}; must be one of {', '.join(allowed)}")
        if split not in self._read:
            everything = self.read_split(split)
            if split == "train" and self.max_corrupt:
                everything = [item for item in everything if self._fits(item)]
            if not everything:
                raise UserError(f"split {split!r} has no utterances; must be at least one")
            limit = self.max_train_utterances if split == "train" else self.max_test_utterances
            self._read[split] = evenly_spaced(everything, limit)
        return self._read[split]

    @property
    def is_disjoint(self) -> bool:
        """Whether the splits are published as having no recording in common, so that nobody need compare them."""
        return False

    def can_list(self, split: str) -> bool:
        """Whether `utterances(split)` can be had; not of a stream."""
        return True

    def training_items(self) -> Iterator[Utterance]:
        """The training utterances in the corpus's order, also those of a stream; what cannot be read is left out."""
        return iter(self.utterances("train"))

    def train_dataloader(self) -> TrainLoader:
        """Batches of at most `max_batch_s`, new ones each epoch; each rank gets its own, equally many."""
        self._train_loader = self.make_train_loader()
        resume, self._resume = self._resume, None
        if resume is not None:
            self._train_loader.load_state_dict(resume)
        return self._train_loader

    def make_train_loader(self) -> TrainLoader:
        """The training loader at its beginning."""
        utterances = self.utterances("train")
        durations = [self._longest_s(item) for item in utterances]
        sampler = AudioBatchSampler(durations, self.max_batch_s, self.num_buckets, seed=self.seed)
        augment_seed = self.seed if self.augment else None
        dataset = UtteranceDataset(utterances, self._cache, augment_seed, self.augmentation, self.skipped)
        return SpeechLoader(dataset, sampler, self.num_workers, max(1, round(self.pad_to_s * SAMPLE_RATE)))

    def _longest_s(self, item: Utterance) -> float:
        """Seconds in a batch, at the slowest speed for all: every epoch then has the same number of batches."""
        return rounded_up(item.duration_s * (1.0 / SLOWEST if self.augment else 1.0), self.pad_to_s)

    def _fits(self, item: Utterance) -> bool:
        if fits := self._longest_s(item) <= self.max_batch_s:
            return fits
        self.skipped.add(item.id, too_long(item, self.max_batch_s))
        return False

    def reads(self, item: Utterance) -> bool:
        """Whether a training utterance can be decoded; True unasked where none may be skipped.

        Raises:
            UserError: it cannot, and it is one more than `max_corrupt`.
        """
        return not self.max_corrupt or self.skipped.reads(item.audio, self._cache.load)

    def check(self) -> None:
        """Reads every split and forms training batches, so that an error comes before anything is built.

        Raises:
            UserError: a split cannot be read, or an utterance is longer than a batch.
        """
        for split in ("train", "dev", *self.test_splits):
            self.utterances(split)
        self.make_train_loader()

    def state_dict(self) -> dict[str, Any]:
        """Position of training, for checkpoints.

        Lightning keeps it as well, but does not restore it if the optimiser's schedule has asked for the number of
        steps, which builds the loader.
        """
        return {"train": self._train_loader.state_dict()} if self._train_loader is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from the position of a checkpoint."""
        self._resume = state_dict.get("train")
        if self._train_loader is not None and self._resume is not None:
            self._train_loader.load_state_dict(self._resume)

    @property
    def inside_epoch(self) -> bool:
        """Whether some but not all batches of an epoch were yielded."""
        loader = self._train_loader
        return loader is not None and 0 < loader.position < len(loader)

    def training_facts(self) -> dict[str, Any]:
        """What determines the training batches, as builtins: a resumed run must have the same."""
        return {
            "class": type(self).__name__,
            "train": self.split_fingerprint("train"),
            "max_batch_s": self.max_batch_s,
            "pad_to_s": self.pad_to_s,
            "num_buckets": self.num_buckets,
            "seed": self.seed,
            "augment": asdict(self.augmentation) if self.augment else None,
        }

    def val_dataloader(self) -> SpeechLoader:
        """The dev split in fixed batches of similar length; each rank gets its own.

        Raises:
            UserError: there are fewer utterances than processes.
        """
        utterances = self.utterances("dev")
        _, world = rank_and_world()
        if len(utterances) < world:
            raise UserError(
                f"split 'dev' has {len(utterances)} utterances; must be at least one per process, {world}"
            )
        durations = [u.duration_s for u in utterances]
        bound = max(self.max_batch_s, *durations)
        sampler = AudioBatchSampler(durations, bound, self.num_buckets, shuffle=False, repeat=False)
        return SpeechLoader(UtteranceDataset(utterances, self._cache), sampler, self.num_workers)

    def test_dataloader(self) -> list[SpeechLoader]:
        """One loader per test split: single utterances in manifest order; ranks take every n-th."""
        return [self.loader(self.utterances(split), shard=True) for split in self.test_splits]

    def loader(
        self, utterances: Sequence[Utterance], batch_size: int = 1, shard: bool = False
    ) -> SpeechLoader:
        """Loads `utterances` in the given order, as they are.

        Cached audio is decoded in this process, so that the next loader finds it: a worker's memory ends with its
        loader.

        Args:
            utterances: any utterances, for instance those for calibration.
            batch_size: utterances per batch, at least 1.
            shard: let each rank load its part; otherwise every rank loads all.
        """
        sampler = OrderedBatchSampler(len(utterances), batch_size, shard)
        workers = 0 if self._cache.keeps else self.num_workers
        return SpeechLoader(UtteranceDataset(utterances, self._cache), sampler, workers)

    def calibration_utterances(self, count: int, seed: int) -> list[Utterance]:
        """Draws `count` different training utterances; if there are fewer, logs it and takes all."""
        if count < 1:
            raise UserError(f"calibration_utterances is {count}; must be an integer from 1")
        utterances = self.utterances("train")
        if count > len(utterances):
            _log.info(f"calibration: {count} utterances asked for, train has {len(utterances)}: using all")
        order = torch.randperm(len(utterances), generator=torch.Generator().manual_seed(seed))
        return list(islice(filter(self.reads, (utterances[i] for i in order.tolist())), count))

    def split_fingerprint(self, split: str) -> str:
        """SHA-256 over ids and texts of `utterances(split)`: a report names its test set by it."""
        digest = hashlib.sha256()
        for utterance in self.utterances(split):
            digest.update(f"{utterance.id}\t{utterance.text}\n".encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """One line per split: utterances, hours, words."""
        return "\n".join(
            describe_split(split, self.utterances(split)) for split in ["train", "dev", *self.test_splits]
        )


def rounded_up(seconds: float, step: float) -> float:
    """The least multiple of `step` that is not below `seconds`; step 0 changes nothing.

    >>> rounded_up(1.2, 0.5), rounded_up(1.5, 0.5), rounded_up(1.2, 0.0)
    (1.5, 1.5, 1.2)
    """
    return math.ceil(seconds / step) * step if step else seconds


def _check_positive(**fields: float | None) -> None:
    for field, value in fields.items():
        if value is not None and not value > 0:
            raise UserError(f"{field} is {value}; must be a number above 0")
