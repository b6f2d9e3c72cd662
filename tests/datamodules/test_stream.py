"""Streams: every utterance once a pass on any ranks and workers; a stopped stream goes on; bad items count."""

from __future__ import annotations

import io
import itertools
import json
import logging
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import webdataset
from torch.utils.data import get_worker_info

from datamodules import segments as corpus
from datamodules import stream
from datamodules.audio import load_audio
from datamodules.audio_file import TarMember, read_duration
from datamodules.augment import Augmentation
from datamodules.batch import Batch
from datamodules.segments import Segment, find_segments, tar_items
from datamodules.stream import SpeechStream, StreamLoader, StreamSettings
from datamodules.stream_module import StreamDataModule
from qat.system.errors import UserError

COUNT = 60
SETTINGS = StreamSettings(max_batch_s=4.0, window=16)


def sound(index: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(index).standard_normal(3_000 + 200 * (index % 17))


def wav(index: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound(index), 16_000, format="WAV")
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tar files of five utterances each; the text is in JSON or in a text file."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(12):
        with tarfile.open(folder / f"train-{shard:03}.tar", "w") as archive:
            for index in range(5 * shard, 5 * shard + 5):
                add(archive, f"u{index}.wav", wav(index))
                if index % 2:
                    add(archive, f"u{index}.txt", b"Turn on")
                else:
                    add(
                        archive,
                        f"u{index}.json",
                        json.dumps({"id": f"u{index}", "text": "off"}).encode(),
                    )
    return folder


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON lines file of as many utterances, of lines of many lengths."""
    folder = tmp_path_factory.mktemp("lines")
    rows = []
    for index in range(COUNT):
        (folder / f"u{index}.wav").write_bytes(wav(index))
        row = {"id": f"u{index}", "audio": f"u{index}.wav", "text": "one two", "speaker": "x" * (index % 7)}
        rows.append(json.dumps({**row, "duration_s": len(sound(index)) / 16_000}))
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n\n")
    return folder / "train.jsonl"


@pytest.fixture(params=["tar", "jsonl"])
def segments(
    request: pytest.FixtureRequest, shards: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Segment]:
    monkeypatch.setattr(corpus, "SEGMENT_BYTES", 300)
    return find_segments(str(shards / "*.tar") if request.param == "tar" else str(lines))


def ids_of_pass(made: SpeechStream) -> list[str]:
    return [name for batch in made.one_pass() for name in batch.ids]


class Worker:
    """Stands in for the worker that PyTorch would tell a data set about."""

    def __init__(self, number: int, count: int) -> None:
        self.id, self.num_workers = number, count


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_every_utterance_is_read_once_by_one_worker_of_one_rank(
    segments: list[Segment], world: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[str]] = []
    for rank, number in itertools.product(range(world), range(workers)):
        monkeypatch.setattr(stream, "get_worker_info", lambda number=number: Worker(number, workers))
        found.append(ids_of_pass(SpeechStream(segments, SETTINGS, rank, world)))
    every = [name for part in found for name in part]
    assert sorted(every) == sorted(f"u{index}" for index in range(COUNT))


def test_passes_differ_and_batches_keep_their_bound(segments: list[Segment]) -> None:
    made = SpeechStream(segments, SETTINGS)
    found: list[list[Batch]] = [[]]
    for batch in made:
        if made.place.turn == len(found):
            if len(found) == 2:
                break
            found.append([])
        found[-1].append(batch)
    first, second = ([name for batch in batches for name in batch.ids] for batches in found)
    assert sorted(first) == sorted(second) and first != second
    for batch in (batch for batches in found for batch in batches):
        assert batch.signal.shape[0] * batch.signal.shape[1] <= SETTINGS.max_batch_s * 16_000
    assert len(found[0]) < COUNT / 2  # several to a batch


@pytest.mark.parametrize("stop", [1, 2, 5, 9, 17, 30])
def test_a_stopped_stream_goes_on_with_the_same_batches(segments: list[Segment], stop: int) -> None:
    settings = StreamSettings(max_batch_s=2.0, window=16, augmentation=Augmentation())
    whole = list(itertools.islice(SpeechStream(segments, settings), 40))
    made = SpeechStream(segments, settings)
    begun = list(itertools.islice(made, stop))
    state = json.loads(json.dumps(made.state_dict()))
    again = SpeechStream(segments, settings)
    again.load_state_dict(state)
    found = begun + list(itertools.islice(again, 40 - stop))
    for one, two in zip(whole, found, strict=True):
        assert one.ids == two.ids and torch.equal(one.signal, two.signal)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_in_the_middle_of_an_epoch(segments: list[Segment], workers: int) -> None:
    def make() -> StreamLoader:
        return StreamLoader(SpeechStream(segments, SETTINGS), 5, workers)

    loader = make()
    whole = [[batch.ids for batch in loader] for _ in range(3)]
    assert [len(epoch) for epoch in whole] == [5, 5, 5] and len(loader) == 5
    cut = make()
    assert [batch.ids for batch in cut] == whole[0]
    begun = [batch.ids for batch in itertools.islice(cut, 2)]
    state = cut.state_dict()
    assert (state["position"], state["length"]) == (2, 5)
    again = make()
    again.load_state_dict(state)
    assert begun + [batch.ids for batch in again] == whole[1]
    assert [batch.ids for batch in again] == whole[2]


def test_a_member_of_a_tar_file_is_the_file_that_went_in(shards: Path) -> None:
    (_, item), *_ = tar_items(shards / "train-000.tar", 0)
    assert not isinstance(item, UserError) and isinstance(item.audio, TarMember)
    assert item.id == "u0" and item.text == "off"
    samples, _ = soundfile.read(io.BytesIO(wav(0)), dtype="float32")
    assert torch.equal(load_audio(item.audio), torch.from_numpy(samples))
    assert read_duration(item.audio) == item.duration_s == len(samples) / 16_000
    assert str(item.audio).endswith("train-000.tar, u0.wav")


def test_webdataset_reads_the_same_shards(shards: Path) -> None:
    """The reference of the layout: the same keys in the same order, the same bytes of sound, the same text."""
    for path in sorted(shards.glob("*.tar")):
        ours = [item for _, item in tar_items(path, 0)]
        theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
        assert [item.id for item in ours] == [sample["__key__"] for sample in theirs]
        for item, sample in zip(ours, theirs, strict=True):
            assert isinstance(item.audio, TarMember) and item.audio.read().read() == sample["wav"]
            text = json.loads(sample["json"])["text"] if "json" in sample else sample["txt"].decode().lower()
            assert item.text == text


def test_shards_that_webdataset_writes_are_read(tmp_path: Path) -> None:
    keys = ["a/one", "a/two", "b/one", "b/three-4"]
    with webdataset.ShardWriter(str(tmp_path / "train-%03d.tar"), maxcount=3, verbose=0) as writer:
        for index, key in enumerate(keys):
            writer.write({"__key__": key, "wav": wav(index), "json": {"text": "off", "speaker": "x"}})
    read = [item for path in sorted(tmp_path.glob("*.tar")) for _, item in tar_items(path, 0)]
    assert [item.id for item in read] == keys
    for index, item in enumerate(read):
        assert (item.text, item.speaker) == ("off", "x")
        assert torch.equal(
            load_audio(item.audio),
            torch.from_numpy(soundfile.read(io.BytesIO(wav(index)), dtype="float32")[0]),
        )


def broken_shard(folder: Path) -> Path:
    with tarfile.open(folder / "bad.tar", "w") as archive:
        add(archive, "good.wav", wav(1))
        add(archive, "good.txt", b"fine")
        add(archive, "mute.txt", b"no sound")
        add(archive, "noise.wav", b"this is no sound file")
        add(archive, "noise.txt", b"noise")
        add(archive, "silent.wav", wav(2))
        add(archive, "silent.json", b"{not json")
        add(archive, "cut.wav", wav(3)[:-1000])
        add(archive, "cut.json", json.dumps({"text": "cut", "duration_s": 0.2}).encode())
    return folder / "bad.tar"


def test_bad_items_are_skipped_counted_and_logged_up_to_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segments = find_segments(str(broken_shard(tmp_path)))
    made = SpeechStream(segments, StreamSettings(max_batch_s=4.0, max_corrupt=4))
    with caplog.at_level(logging.WARNING):
        assert ids_of_pass(made) == ["good"]
    assert made.place.corrupt == 4
    said = [record.message for record in caplog.records]
    expected = ["mute: holds no audio", "noise.wav: is truncated, corrupt", "silent: its text or JSON"]
    for number, part in enumerate([*expected, "cut.wav: is truncated"]):
        assert part in said[number] and f"skipped ({number + 1} of at most 4 a worker)" in said[number]
    with pytest.raises(UserError, match=r"cut\.wav: is truncated.*item 4 to skip; max_corrupt is 3"):
        ids_of_pass(SpeechStream(segments, StreamSettings(max_batch_s=4.0, max_corrupt=3)))


def test_bad_lines_and_overlong_utterances_count_as_well(lines: Path, tmp_path: Path) -> None:
    rows = lines.read_text().splitlines()[:3]
    bad = ["{", "[1]", json.dumps({"id": "x", "audio": "gone.wav", "text": "a"}), json.dumps({"text": "a"})]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join([*rows, *bad]))
    settings = StreamSettings(max_batch_s=0.21, max_corrupt=6, audio_root=lines.parent)
    made = SpeechStream(find_segments(str(path)), settings)
    assert sorted(ids_of_pass(made)) == ["u0", "u1"]
    assert made.place.corrupt == 5  # u2 is longer than a batch


def test_a_torn_shard_is_an_item_to_skip(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "train-000.tar").read_bytes()
    (tmp_path / "torn.tar").write_bytes(whole[: len(whole) // 2 + 100])
    segments = find_segments(str(tmp_path / "torn.tar"))
    made = SpeechStream(segments, StreamSettings(max_batch_s=4.0, max_corrupt=2))
    assert ids_of_pass(made) and made.place.corrupt >= 1
    (tmp_path / "torn.tar").write_bytes(b"no tar file at all" * 100)
    made = SpeechStream(find_segments(str(tmp_path / "torn.tar")), StreamSettings(max_batch_s=4.0))
    with pytest.raises(UserError, match=r"torn\.tar: is truncated or not a tar file"):
        ids_of_pass(made)


@pytest.mark.parametrize("count", [2_000, 100_000])
def test_memory_does_not_grow_with_the_manifest(tmp_path: Path, count: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav(0))
    line = '{"id": "u%d", "audio": "a.wav", "text": "turn the light on", "duration_s": 0.1875}\n'
    (tmp_path / "train.jsonl").write_text("".join(line % index for index in range(count)))
    tracemalloc.start()
    made = SpeechStream(find_segments(str(tmp_path / "train.jsonl")), StreamSettings(max_batch_s=2.0))
    first = next(iter(made))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(first) == 10
    assert peak < 4e6


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
        ({"batches_per_epoch": 0}, "batches_per_epoch is 0; allowed are integers from 1"),
        ({"max_corrupt": -1}, "max_corrupt is -1; allowed are integers from 0"),
        ({"window": 0}, "window is 0; allowed are integers from 1"),
    ],
)
def test_bad_arguments_are_one_line(shards: Path, lines: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(**{"train": str(shards / "*.tar"), "lines": lines, **more})


def test_fewer_segments_than_workers_are_refused(shards: Path) -> None:
    segments = find_segments(str(shards / "train-000.tar"))
    with pytest.raises(UserError, match=r"1 segments .* for 2 workers \(2 processes of 1\)"):
        next(iter(SpeechStream(segments, SETTINGS, 0, 2)))
    assert get_worker_info() is None


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,audio,text\n")
    with pytest.raises(UserError, match=r"train\.csv: unknown kind of corpus; allowed are \.tar and \.jsonl"):
        find_segments(str(tmp_path / "train.csv"))
