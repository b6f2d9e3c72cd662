"""The guard of a search: nothing of it may see test data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from datamodules.base import SpeechDataModule


class TestDataTouchedError(RuntimeError):
    """A search has asked for test data."""

    __test__ = False  # for pytest


@contextmanager
def sealed(data: SpeechDataModule) -> Iterator[None]:
    """Let a data module give no test data while the block runs.

    Args:
        data: whose test splits are named, read and loaded by nobody then.

    Raises:
        TestDataTouchedError: the block asked for some.
    """
    read = data.utterances

    def utterances(split: str) -> Any:
        return read(split) if split in ("train", "dev") else refuse()

    def refuse() -> NoReturn:
        raise TestDataTouchedError("search: must read train and dev alone, and asked for test data")

    own: dict[str, Any] = {"utterances": utterances, "test_dataloader": refuse}
    before = {name: vars(data).get(name) for name in own}
    for name, value in own.items():
        setattr(data, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
