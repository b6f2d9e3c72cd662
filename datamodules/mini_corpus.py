"""The small corpus that is embedded in the repository."""

from pathlib import Path
from typing import Any

from datamodules.base import SpeechDataModule
from datamodules.manifest import read_manifest
from datamodules.utterance import Utterance
from qat.system.errors import UserError

MINI_FOLDER = Path(__file__).parent / "mini"


class MiniDataModule(SpeechDataModule):
    """The embedded corpus; it tests on speakers seen in training, unseen speakers, and real recordings.

    Args:
        extra_train: manifest of further training utterances, such as `make_corpus --more` writes; null: none.
        cache: keep decoded audio in memory; the corpus is small enough.
        num_workers: processes that decode audio; with 0, decoding Opus takes a tenth of a training step.
        kwargs: see `SpeechDataModule`.
    """

    def __init__(
        self, extra_train: str | None = None, cache: bool = True, num_workers: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(cache=cache, num_workers=num_workers, **kwargs)
        self.extra_train = extra_train
        self.test_splits = ["test_seen", "test_unseen", "test_real"]

    @property
    def is_disjoint(self) -> bool:
        """The embedded splits are, as a test shows; further utterances may be anything."""
        return self.extra_train is None

    def read_split(self, split: str) -> list[Utterance]:
        """Reads the embedded manifest of the split, and the further utterances of train.

        Raises:
            UserError: see `read_manifest`; or a further utterance has the id of an embedded one, or the text of
                one in dev or test.
        """
        embedded = read_manifest(MINI_FOLDER / f"{split}.jsonl")
        if split != "train" or self.extra_train is None:
            return embedded
        extra = read_manifest(Path(self.extra_train), skipped=self.skipped)
        ids = {utterance.id for utterance in embedded}
        kept = {item.text for name in ("dev", *self.test_splits) for item in self.read_split(name)}
        for utterance in extra:
            if utterance.id in ids:
                raise UserError(
                    f"{self.extra_train}: id {utterance.id!r} is also in the mini corpus; must be new"
                )
            if utterance.text in kept:
                raise UserError(
                    f"{self.extra_train}: id {utterance.id!r}: text {utterance.text!r} is in a dev or test split of "
                    "the mini corpus; must be a sentence of its own; leave it out"
                )
        return embedded + extra
