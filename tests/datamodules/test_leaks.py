"""Recordings in two splits, whatever they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import leaks
from datamodules.leaks import (
    KnownRecordings,
    LeakError,
    check_leaks,
    content_sha256,
    shared_audio,
    shared_texts,
)
from datamodules.manifest import ManifestDataModule
from datamodules.utterance import Utterance
from tests.datamodules.corpora import error_of, write_audio, write_jsonl
from tests.datamodules.corpora import noise as float_noise


def noise(index: int) -> np.ndarray:
    """In integers, which every lossless format keeps."""
    return np.rint(32_768 * float_noise(index)).astype(np.int16)


def corpus(folder: Path, **splits: list[int]) -> ManifestDataModule:
    """Splits of the recordings of `noise(index)`, in files of each split's own, with ids from 0."""
    manifests: dict[str, Any] = {}
    for split, indices in splits.items():
        rows: list[dict[str, object]] = []
        for place, index in enumerate(indices):
            path = write_audio(
                folder / split / f"{place}.{'flac' if split == 'test' else 'wav'}", noise(index)
            )
            rows.append({"id": str(place), "audio": str(path), "text": "one" if index % 2 else "two"})
        manifests[split] = str(write_jsonl(folder / f"{split}.jsonl", rows))
    return ManifestDataModule(**manifests)


def test_equal_ids_in_every_split_are_no_leak(tmp_path: Path) -> None:
    assert check_leaks(corpus(tmp_path, train=[0, 2], dev=[4, 17], test=[21, 34])) == [
        "test: 1 of its 2 texts are in train too"
    ]


def test_a_test_recording_in_train_under_another_id_and_in_another_format_is_refused(tmp_path: Path) -> None:
    message = error_of(check_leaks, corpus(tmp_path, train=[0, 1, 2], dev=[4], test=[3, 2, 19]))
    assert message.startswith(
        "test: 1 of its 3 recordings are in train too, such as '1' (in train '2'); must be none"
    )


def test_recordings_of_dev_elsewhere_are_said(tmp_path: Path) -> None:
    lines = check_leaks(corpus(tmp_path, train=[0, 2, 4], dev=[4, 1], test=[1, 3]))
    assert [line.partition(",")[0] for line in lines] == [
        "test: 1 of its 2 recordings are in dev too",
        "dev: 1 of its 2 recordings are in train too: its error rate flatters",
    ]


def test_a_duration_rounded_in_a_manifest_hides_nothing(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", noise(5))
    copy = write_audio(tmp_path / "b.wav", noise(5))
    exact = len(noise(5)) / 16_000
    one = [Utterance("a", path, "one", exact)]
    for given in (round(exact, 2), exact - 0.005, exact + 0.005):
        two = Utterance("b", copy, "one", given)
        assert shared_audio(one, [two]) == [(one[0], two)]


def test_one_sample_of_difference_is_another_recording(tmp_path: Path) -> None:
    samples = noise(5)
    one = write_audio(tmp_path / "a.wav", samples)
    assert content_sha256(one) == content_sha256(write_audio(tmp_path / "b.flac", samples))
    samples[-1] += 1
    other = write_audio(tmp_path / "c.wav", samples)
    assert content_sha256(one) != content_sha256(other)
    first, second = Utterance("a", one, "one", 0.25), Utterance("c", other, "one", 0.25)
    assert shared_audio([first], [second]) == []


def test_only_recordings_that_begin_alike_are_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = corpus(tmp_path, train=[17, 34, 51], dev=[68], test=[85, 34])  # of one duration
    read: list[Path] = []
    whole = leaks.read_audio

    def counting(path: Path) -> tuple[np.ndarray, int]:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(leaks, "read_audio", counting)
    monkeypatch.setattr(leaks, "START", 1_000)
    pairs = shared_audio(data.utterances("train"), data.utterances("test"))
    assert [(one.id, two.id) for one, two in pairs] == [("1", "1")]
    assert sorted(path.stem for path in read) == ["1", "1"]


def test_published_splits_are_compared_by_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = corpus(tmp_path, train=[0, 1], dev=[3], test=[2])
    monkeypatch.setattr(ManifestDataModule, "is_disjoint", True)
    monkeypatch.setattr(leaks, "read_start", None)
    assert check_leaks(data) == ["test: 1 of its 1 texts are in train too"]
    train = data.utterances("train")
    assert shared_audio(train, train[1:], by_file=True) == [(train[1], train[1])]


def test_a_known_recording_is_known_whatever_its_name_format_and_stated_duration(tmp_path: Path) -> None:
    known = KnownRecordings(
        {"test": [Utterance("a", write_audio(tmp_path / "a.wav", noise(5)), "one", 0.25)]}
    )
    samples = noise(5)
    copy = Utterance("b", write_audio(tmp_path / "b.flac", samples), "two", 9.0)
    with pytest.raises(
        LeakError, match="test: its recording 'a' is in train too .there 'b', .*b.flac.; must be in"
    ):
        known.check(copy)
    samples[-1] += 1
    known.check(Utterance("c", write_audio(tmp_path / "c.wav", samples), "one", 0.25))


def test_texts_in_train_are_counted_for_each_test_set(tmp_path: Path) -> None:
    found = shared_texts(corpus(tmp_path, train=[0, 2], dev=[4], test=[21, 34, 36]))
    assert (found.counts, found.compared, found.is_whole) == ({"test": 2}, 2, True)


def test_recordings_that_all_begin_with_silence_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = np.zeros(leaks.START, np.int16)
    paths = [write_audio(tmp_path / f"{n}.wav", np.concatenate([quiet, noise(n)])) for n in range(4)]
    items = [Utterance(str(n), path, "one", 0.5) for n, path in enumerate(paths)]
    read: list[object] = []
    whole = leaks.read_audio
    monkeypatch.setattr(leaks, "read_audio", lambda path: (read.append(path), whole(path))[1])
    known = KnownRecordings({"test": items[:2]})
    for item in items[2:]:
        known.check(item)
    assert sorted(str(path) for path in read) == sorted(map(str, paths))
