"""The data module of corpora too large to list."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from datamodules.base import SpeechDataModule
from datamodules.leaks import KnownRecordings
from datamodules.manifest import ManifestDataModule
from datamodules.segments import find_segments
from datamodules.stream import WINDOW, SpeechStream, StreamLoader, StreamSettings
from datamodules.utterance import Utterance, describe_split
from qat.system.errors import UserError
from qat.system.ranks import rank_and_world


class StreamDataModule(SpeechDataModule):
    """Training speech of any size as a stream; dev and test sets from manifests.

    Args:
        train: tar files in WebDataset's layout (`KEY.wav`, `KEY.json` or `KEY.txt`) or JSON lines: a file, a glob, or
            several of them.
        dev: manifest to choose checkpoints by.
        test: manifest of the test split "test", or {name of the split: manifest}.
        batches_per_epoch: training batches per process and epoch; the next epoch continues the stream.
        window: utterances that are sorted into batches of similar length together.
        audio_root: folder that relative audio paths start from; null means the manifest's own folder.
        kwargs: see `SpeechDataModule`; `max_train_utterances`, `num_buckets` and `cache` do not apply to training.

    Raises:
        UserError: no such file, or a number out of its range.
    """

    def __init__(
        self,
        train: str | list[str],
        dev: str,
        test: str | dict[str, str],
        batches_per_epoch: int = 1000,
        window: int = WINDOW,
        audio_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("batches_per_epoch", batches_per_epoch), ("window", window)):
            if value < 1:
                raise UserError(f"{name} is {value}; must be an integer from 1")
        self.rest = ManifestDataModule(train=dev, dev=dev, test=test, audio_root=audio_root)
        self.test_splits = self.rest.test_splits
        self.segments = find_segments(train)
        self.batches_per_epoch, self.window = batches_per_epoch, window
        self._audio_root = None if audio_root is None else Path(audio_root)

    def read_split(self, split: str) -> list[Utterance]:
        """The dev or a test split.

        Raises:
            UserError: it is the training split, which is never held in memory as a whole.
        """
        if split == "train":
            raise UserError("split is 'train', which is a stream; must be dev or a test split")
        return self.rest.read_split(split)

    def can_list(self, split: str) -> bool:
        """Every split but the training one."""
        return split != "train"

    def training_items(self) -> Iterator[Utterance]:
        """What can be read of the stream, in the order of its files."""
        for segment in self.segments:
            for _, item in segment.items(segment.start, self._audio_root):
                if isinstance(item, Utterance):
                    yield item

    def check(self) -> None:
        """Reads the dev and test sets, and the first training utterance.

        Raises:
            UserError: what is wrong with them.
        """
        for split in ("dev", *self.test_splits):
            self.utterances(split)
        self.calibration_utterances(1, 0)

    def settings(self) -> StreamSettings:
        """How the stream becomes training batches."""
        return StreamSettings(
            max_batch_s=self.max_batch_s,
            pad_to_s=self.pad_to_s,
            seed=self.seed,
            augmentation=self.augmentation if self.augment else None,
            max_corrupt=self.max_corrupt,
            audio_root=self._audio_root,
            window=self.window,
        )

    def make_train_loader(self) -> StreamLoader:
        """The stream of this rank."""
        known = KnownRecordings({split: self.utterances(split) for split in self.test_splits})
        stream = SpeechStream(self.segments, self.settings(), *rank_and_world(), check=known.check)
        return StreamLoader(stream, self.batches_per_epoch, self.num_workers)

    def calibration_utterances(self, count: int, seed: int) -> list[Utterance]:
        """The first readable utterances of segments in random order, a few of each.

        Raises:
            UserError: the count is below 1, or nothing can be read.
        """
        if count < 1:
            raise UserError(f"calibration_utterances is {count}; must be an integer from 1")
        order = torch.randperm(len(self.segments), generator=torch.Generator().manual_seed(seed)).tolist()
        share = -(-count // len(self.segments))
        chosen: list[Utterance] = []
        wrong: UserError | None = None
        for index in order:
            segment, taken = self.segments[index], 0
            for _, item in segment.items(segment.start, self._audio_root):
                if isinstance(item, UserError):
                    wrong = wrong or item
                    continue
                if not self.reads(item):
                    continue
                chosen.append(item)
                taken += 1
                if taken == share or len(chosen) == count:
                    break
            if len(chosen) == count:
                break
        if not chosen:
            raise wrong or UserError("train: holds no utterance; must be at least one")
        return chosen

    def training_facts(self) -> dict[str, Any]:
        """What determines the training batches, as builtins."""
        files = sorted({(str(item.path), item.path.stat().st_size) for item in self.segments})
        return {
            "class": type(self).__name__,
            "train": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
            **{key: value for key, value in asdict(self.settings()).items() if key != "audio_root"},
            "batches_per_epoch": self.batches_per_epoch,
            "num_workers": self.num_workers,
        }

    def describe(self) -> str:
        """Files and bytes of the training split; one line for each other split."""
        files = {item.path for item in self.segments}
        size = sum(path.stat().st_size for path in files)
        rest = [describe_split(split, self.utterances(split)) for split in ("dev", *self.test_splits)]
        return "\n".join([f"train: {len(files)} files, {size / 1e6:.1f} MB, read as a stream", *rest])
