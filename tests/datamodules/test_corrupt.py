"""Training items that cannot be used: skipped up to a limit, the same for lists and streams."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.base import SpeechDataModule
from datamodules.corrupt import Skipped, count_skipped
from datamodules.leaks import check_leaks
from datamodules.librispeech import LibriSpeechDataModule
from datamodules.manifest import ManifestDataModule
from datamodules.stream_module import StreamDataModule
from qat.system.errors import UserError
from tests.datamodules.corpora import error_of, wav_bytes, write_librispeech, write_split

CUT = "cut.wav: is truncated"


def corpus(folder: Path, count: int = 6, **more: Any) -> dict[str, Any]:
    """Arguments of a data module whose training set has `count` good recordings, and one cut short."""
    splits = {split: write_split(folder, split, number) for split, number in (("dev", 2), ("test", 2))}
    (folder / "cut.wav").write_bytes(wav_bytes(3)[:-1000])
    row = {"id": "cut", "audio": "cut.wav", "text": "cut", "duration_s": 0.2}
    train = write_split(folder, "train", count)
    train.write_text(train.read_text() + json.dumps(row) + "\n")
    return {
        **{name: str(path) for name, path in {**splits, "train": train}.items()},
        "max_batch_s": 4.0,
        **more,
    }


def ids(data: SpeechDataModule) -> list[str]:
    """Of one epoch of training, as they come."""
    return [name for batch in data.train_dataloader() for name in batch.ids]


def test_an_item_within_the_limit_is_logged_and_one_more_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        count_skipped("a.wav: is empty", 1, 1)
    assert caplog.messages == ["skipped (1 of at most 1 per worker): a.wav: is empty"]
    assert (
        error_of(count_skipped, "b.wav: is empty", 2, 1)
        == "b.wav: is empty (item 2 to skip; max_corrupt is 1)"
    )


def test_an_item_counts_once_however_often_it_is_met() -> None:
    skipped = Skipped(1)
    for _ in range(3):
        skipped.add("a", "bad")
    assert "(item 2 to skip; max_corrupt is 1)" in error_of(skipped.add, "b", "bad")


def test_a_recording_is_decoded_once_to_know_that_it_can_be() -> None:
    skipped = Skipped(1)
    asked: list[object] = []
    assert all(skipped.reads(Path("a.wav"), asked.append) for _ in range(2)) and asked == [Path("a.wav")]

    def fail(recording: object) -> None:
        raise UserError(f"{recording}: is empty")

    assert not skipped.reads(Path("b.wav"), fail) and not skipped.reads(Path("b.wav"), fail)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_listed_corpus_skips_what_cannot_be_decoded_in_every_epoch(tmp_path: Path, workers: int) -> None:
    good = {f"train-{index}" for index in range(6)}
    loader = ManifestDataModule(**corpus(tmp_path), max_corrupt=1, num_workers=workers).train_dataloader()
    for _ in range(2):
        assert {name for batch in loader for name in batch.ids} == good
    strict = ManifestDataModule(**corpus(tmp_path), num_workers=workers)
    assert re.search(rf"{CUT}.* \(item 1 to skip; max_corrupt is 0\)$", error_of(ids, strict))


def test_a_stream_says_the_same(tmp_path: Path) -> None:
    paths = corpus(tmp_path)
    listed, stream = (kind(**paths, num_workers=0) for kind in (ManifestDataModule, StreamDataModule))
    assert error_of(ids, listed) == error_of(ids, stream)


def test_a_batch_of_nothing_readable_holds_the_utterance_of_the_nearest_length(tmp_path: Path) -> None:
    data = ManifestDataModule(**corpus(tmp_path), max_corrupt=8)
    loader: Any = data.make_train_loader()
    cut = next(index for index, item in enumerate(data.utterances("train")) if item.id == "cut")
    shortest = min(
        (item for item in data.utterances("train") if item.id != "cut"), key=lambda item: item.duration_s
    )
    assert [item.id for item, _ in loader.dataset.__getitems__([(0, cut)])] == [shortest.id]
    for path in (tmp_path / "audio").iterdir():
        path.write_bytes(b"RIFF")
    assert "train: no utterance can be read" in error_of(loader.dataset.__getitems__, [(0, cut)])


def test_calibration_draws_what_can_be_decoded(tmp_path: Path) -> None:
    for kind in (ManifestDataModule, StreamDataModule):
        data = kind(**corpus(tmp_path), max_corrupt=1)
        chosen = {item.id for item in data.calibration_utterances(7, seed=0)}
        assert chosen == {f"train-{index}" for index in range(6)}


def test_bad_lines_and_overlong_utterances_of_train_count_as_well(tmp_path: Path) -> None:
    paths = corpus(tmp_path)
    train = Path(paths["train"])
    long = {"id": "long", "audio": "cut.wav", "text": "cut", "duration_s": 5.0}
    gone = {"id": "gone", "audio": "gone.wav", "text": "a"}
    train.write_text("{\n" + train.read_text() + json.dumps(long) + "\n" + json.dumps(gone) + "\n")
    data = ManifestDataModule(**paths, max_corrupt=4)
    data.check()
    assert len(data.skipped.items) == 3
    assert set(ids(data)) == {f"train-{index}" for index in range(6)} and len(data.skipped.items) == 4
    assert "is not JSON" in error_of(ManifestDataModule(**paths).check)
    assert "gone.wav" in error_of(ManifestDataModule(**paths, max_corrupt=1).check)
    assert "lasts 5.0 s; must be at most a batch, 4 s (item 3 to skip; max_corrupt is 2)" in error_of(
        ManifestDataModule(**paths, max_corrupt=2).check
    )


def test_of_a_test_set_nothing_is_skipped(tmp_path: Path) -> None:
    paths = corpus(tmp_path)
    data = ManifestDataModule(**{**paths, "train": paths["test"], "test": paths["train"]}, max_corrupt=9)
    (loader,) = data.test_dataloader()
    assert CUT in error_of(list, loader)
    Path(paths["train"]).write_text("{\n")
    data = ManifestDataModule(**{**paths, "train": paths["test"], "test": paths["train"]}, max_corrupt=9)
    assert "is not JSON" in error_of(data.utterances, "test")


def test_what_may_be_skipped_does_not_stop_the_search_for_leaks(tmp_path: Path) -> None:
    paths = corpus(tmp_path)
    test = Path(paths["test"])
    test.write_text(json.dumps({"id": "a", "audio": "cut.wav", "text": "x", "duration_s": 0.2}) + "\n")
    (tmp_path / "cut.wav").rename(tmp_path / "whole.wav")
    (tmp_path / "whole.wav").write_bytes(wav_bytes(3))
    test.write_text(test.read_text().replace("cut.wav", "whole.wav"))
    (tmp_path / "cut.wav").write_bytes(b"RIFF")
    assert check_leaks(ManifestDataModule(**paths, max_corrupt=1)) == []
    assert "cut.wav: is truncated, corrupt" in error_of(check_leaks, ManifestDataModule(**paths))


def test_librispeech_skips_recordings_of_train(tmp_path: Path) -> None:
    for subset in ("train-clean-100", "dev-clean", "test-clean"):
        write_librispeech(tmp_path / "LibriSpeech", subset)
    named: dict[str, Any] = {
        "train_subsets": ["train-clean-100"],
        "dev_subset": "dev-clean",
        "test_subsets": ["test-clean"],
    }
    next((tmp_path / "LibriSpeech" / "train-clean-100").glob("84/7/*.flac")).write_bytes(b"fLaC")
    assert len(LibriSpeechDataModule(str(tmp_path), **named, max_corrupt=1).utterances("train")) == 3
    assert "is truncated, corrupt" in error_of(
        LibriSpeechDataModule(str(tmp_path), **named).utterances, "train"
    )
