"""The data module of streams: training batches without end, dev and test sets from manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules import leaks
from datamodules.leaks import check_leaks, shared_texts
from datamodules.stream_module import StreamDataModule
from qat.system.errors import UserError
from tests.datamodules.corpora import error_of, wav_bytes, write_jsonl


def module(train: Any, lines: Path, test: Path | None = None, **more: Any) -> StreamDataModule:
    """The lines hold the shards' recordings; those of `test`, by default one, are others."""
    test = test or unheard(lines.parent, 101)
    return StreamDataModule(train=train, dev=str(lines), test=str(test), max_batch_s=4.0, **more)


def unheard(folder: Path, index: int) -> Path:
    """A manifest of one recording, `noise(index)`."""
    path = folder / f"noise-{index}.wav"
    path.write_bytes(wav_bytes(index))
    row: dict[str, object] = {"id": "0", "audio": path.name, "text": "turn on"}
    return write_jsonl(folder / f"noise-{index}.jsonl", [row])


def test_the_data_module_streams_calibrates_and_describes(shards: Path, lines: Path) -> None:
    data = module(str(shards / "*.tar"), lines, batches_per_epoch=3)
    data.check()
    assert [len(batch) > 0 for batch in data.train_dataloader()] == [True] * 3
    chosen = data.calibration_utterances(30, seed=1)
    assert len({item.id for item in chosen}) == 30
    assert chosen == data.calibration_utterances(30, seed=1) != data.calibration_utterances(30, seed=2)
    assert [batch.ids for batch in data.loader(chosen[:2])] == [[item.id] for item in chosen[:2]]
    assert "train: 12 files" in data.describe() and "dev: 60 utterances" in data.describe()
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


def test_a_test_recording_in_the_stream_is_refused_before_the_run(
    shards: Path, lines: Path, tmp_path: Path
) -> None:
    data = module(str(shards / "*.tar"), lines, unheard(tmp_path, 37))
    assert error_of(check_leaks, data).startswith(
        "test: 1 of its 1 recordings are in train too, such as '0' (in train 'u37'); must be none"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_too_much_to_compare_before_is_refused_where_it_is_read(
    shards: Path, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(leaks, "COMPARED", 10)
    more = {"batches_per_epoch": 60, "num_workers": workers, "max_corrupt": 60}
    data = module(str(shards / "*.tar"), lines, unheard(tmp_path, 37), **more)
    assert check_leaks(data)[0] == "train: 10 utterances are compared with the other splits, the rest as read"
    message = error_of(list, data.train_dataloader())
    assert message.startswith("test: its recording '0' is in train too (there 'u37', ")
    assert "must be in test alone" in message


def test_a_stream_is_compared_in_its_first_pass_alone(
    shards: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module(str(shards / "*.tar"), lines, batches_per_epoch=2)
    stream: Any = data.make_train_loader().loader.dataset
    list(stream.one_pass())
    stream.place.turn, stream.place.segment, stream.check = 1, 0, None.__getattribute__
    assert list(stream.one_pass())


def test_texts_of_the_test_set_in_a_stream_are_counted(
    shards: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module(str(shards / "*.tar"), lines)
    assert "test: 1 of its 1 texts are in train too" in check_leaks(data)
    found = shared_texts(data)
    assert (found.counts, found.compared, found.is_whole) == ({"test": 1}, 60, True)
    monkeypatch.setattr(leaks, "COMPARED", 1)  # u0 alone, of another text
    found = shared_texts(data)
    assert (found.counts, found.compared, found.is_whole) == ({"test": 0}, 1, False)
