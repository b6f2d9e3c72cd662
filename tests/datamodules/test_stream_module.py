"""The data module of streams: training batches without end, dev and test sets from manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.stream_module import StreamDataModule
from qat.system.errors import UserError
from tests.datamodules.corpora import error_of


def module(train: Any, lines: Path, **more: Any) -> StreamDataModule:
    return StreamDataModule(train=train, dev=str(lines), test=str(lines), max_batch_s=4.0, **more)


def test_the_data_module_streams_calibrates_and_describes(shards: Path, lines: Path) -> None:
    data = module(str(shards / "*.tar"), lines, batches_per_epoch=3)
    data.check()
    assert [len(batch) > 0 for batch in data.train_dataloader()] == [True] * 3
    chosen = data.calibration_utterances(30, seed=1)
    assert len({item.id for item in chosen}) == 30
    assert chosen == data.calibration_utterances(30, seed=1) != data.calibration_utterances(30, seed=2)
    assert [batch.ids for batch in data.loader(chosen[:2])] == [[item.id] for item in chosen[:2]]
    assert "train: 12 files" in data.describe() and "test: 60 utterances" in data.describe()
    assert data.training_facts()["class"] == "StreamDataModule"
    assert data.training_facts() != module(str(shards / "train-00*.tar"), lines).training_facts()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"train": "nowhere/*.tar"}, r"train 'nowhere/\*\.tar': fits no file"),
        ({"batches_per_epoch": 0}, "batches_per_epoch is 0; must be an integer from 1"),
        ({"max_corrupt": -1}, "max_corrupt is -1; must be an integer from 0"),
        ({"window": 0}, "window is 0; must be an integer from 1"),
    ],
)
def test_bad_arguments_are_one_line(shards: Path, lines: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(**{"train": str(shards / "*.tar"), "lines": lines, **more})


def test_the_training_split_cannot_be_listed(shards: Path, lines: Path) -> None:
    data = module(str(shards / "*.tar"), lines)
    assert "split is 'train', which is a stream; must be dev or a test split" in error_of(
        data.utterances, "train"
    )
    assert len(data.utterances("dev")) == 60
