"""The small corpus that is embedded in the repository."""

from pathlib import Path
from typing import Any

from datamodules.base import SpeechDataModule
from datamodules.batch import Utterance
from datamodules.manifest import read_manifest

MINI_FOLDER = Path(__file__).parent / "mini"


class MiniDataModule(SpeechDataModule):
    """The embedded corpus; it tests on speakers seen in training, unseen speakers, and real recordings.

    Args:
        cache: keep decoded audio in memory; the corpus is small enough.
        kwargs: see `SpeechDataModule`.
    """

    def __init__(self, cache: bool = True, **kwargs: Any) -> None:
        super().__init__(cache=cache, **kwargs)
        self.test_splits = ["test_seen", "test_unseen", "test_real"]

    def read_split(self, split: str) -> list[Utterance]:
        """Reads the embedded manifest of the split."""
        return read_manifest(MINI_FOLDER / f"{split}.jsonl")
