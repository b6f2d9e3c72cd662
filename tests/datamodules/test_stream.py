"""Streams: every utterance once per pass on any ranks and workers; a stopped stream resumes; bad items count."""

from __future__ import annotations

import itertools
import json
import logging
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch.utils.data import get_worker_info

from datamodules import segments as corpus
from datamodules import stream
from datamodules.augment import Augmentation
from datamodules.batch import Batch
from datamodules.segments import Segment, find_segments
from datamodules.stream import SpeechStream, StreamLoader, StreamSettings
from qat.system.errors import UserError
from tests.datamodules.conftest import COUNT
from tests.datamodules.corpora import add_member, endless_flac, noise, piped_wav, wav_bytes

SETTINGS = StreamSettings(max_batch_s=4.0, window=16)


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
def test_a_stopped_stream_resumes_with_the_same_batches(segments: list[Segment], stop: int) -> None:
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
def test_a_loader_resumes_in_the_middle_of_an_epoch(segments: list[Segment], workers: int) -> None:
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


def broken_shard(folder: Path) -> Path:
    with tarfile.open(folder / "bad.tar", "w") as archive:
        add_member(archive, "good.wav", wav_bytes(1))
        add_member(archive, "good.txt", b"fine")
        add_member(archive, "mute.txt", b"no sound")
        add_member(archive, "noise.wav", b"this is no sound file")
        add_member(archive, "noise.txt", b"noise")
        add_member(archive, "silent.wav", wav_bytes(2))
        add_member(archive, "silent.json", b"{not json")
        add_member(archive, "cut.wav", wav_bytes(3)[:-1000])
        add_member(archive, "cut.json", json.dumps({"text": "cut", "duration_s": 0.2}).encode())
    return folder / "bad.tar"


def test_bad_items_are_skipped_counted_and_logged_up_to_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segments = find_segments(str(broken_shard(tmp_path)))
    made = SpeechStream(segments, StreamSettings(max_batch_s=4.0, max_corrupt=4))
    with caplog.at_level(logging.WARNING):
        assert ids_of_pass(made) == ["good"]
    assert made.place.corrupt == 4
    logged = [record.message for record in caplog.records]
    expected = ["mute: holds no audio", "noise.wav: is truncated, corrupt", "silent: its text or JSON"]
    for number, part in enumerate([*expected, "cut.wav: is truncated"]):
        assert part in logged[number] and f"skipped ({number + 1} of at most 4 per worker)" in logged[number]
    with pytest.raises(UserError, match=r"cut\.wav: is truncated.*item 4 to skip; max_corrupt is 3"):
        ids_of_pass(SpeechStream(segments, StreamSettings(max_batch_s=4.0, max_corrupt=3)))


def test_audio_of_unknown_length_is_read_and_what_no_decoder_can_read_counts_as_corrupt(
    tmp_path: Path,
) -> None:
    flac = endless_flac(noise(1))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in {
            "piped.wav": piped_wav(noise(2), 0x7FFFF000),
            "endless.flac": flac,
            "cut.flac": flac[:-50],
            "ogg.ogg": b"OggS" + bytes(200),
        }.items():
            add_member(archive, name, content)
            add_member(archive, name.partition(".")[0] + ".txt", b"one")
    made = SpeechStream(
        find_segments(str(tmp_path / "a.tar")), StreamSettings(max_batch_s=4.0, max_corrupt=2)
    )
    assert sorted(ids_of_pass(made)) == ["endless", "piped"]
    assert made.place.corrupt == 2


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
    (tmp_path / "a.wav").write_bytes(wav_bytes(0))
    line = '{"id": "u%d", "audio": "a.wav", "text": "turn the light on", "duration_s": 0.1875}\n'
    (tmp_path / "train.jsonl").write_text("".join(line % index for index in range(count)))
    tracemalloc.start()
    made = SpeechStream(find_segments(str(tmp_path / "train.jsonl")), StreamSettings(max_batch_s=2.0))
    first = next(iter(made))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(first) == 10
    assert peak < 4e6


def test_fewer_segments_than_workers_are_refused(shards: Path) -> None:
    segments = find_segments(str(shards / "train-000.tar"))
    with pytest.raises(UserError, match=r"1 segments .* for 2 workers \(2 processes of 1\)"):
        next(iter(SpeechStream(segments, SETTINGS, 0, 2)))
    assert get_worker_info() is None
