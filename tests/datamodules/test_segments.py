"""Segments: what begins in them is what went in, as WebDataset reads it too; each line belongs to one segment."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import soundfile
import torch
import webdataset

from datamodules import segments
from datamodules.audio import load_audio
from datamodules.audio_file import TarMember, read_duration
from datamodules.segments import find_segments, tar_items
from datamodules.utterance import Utterance
from qat.system.errors import UserError
from tests.datamodules.conftest import COUNT
from tests.datamodules.corpora import error_of, wav_bytes


def test_a_member_of_a_tar_file_is_the_file_that_went_in(shards: Path) -> None:
    (_, item), *_ = tar_items(shards / "train-000.tar", 0)
    assert not isinstance(item, UserError) and isinstance(item.audio, TarMember)
    assert item.id == "u0" and item.text == "off"
    samples, _ = soundfile.read(io.BytesIO(wav_bytes(0)), dtype="float32")
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
            writer.write({"__key__": key, "wav": wav_bytes(index), "json": {"text": "off", "speaker": "x"}})
    read = [item for path in sorted(tmp_path.glob("*.tar")) for _, item in tar_items(path, 0)]
    assert [item.id for item in read] == keys
    for index, item in enumerate(read):
        assert (item.text, item.speaker) == ("off", "x")
        assert torch.equal(
            load_audio(item.audio),
            torch.from_numpy(soundfile.read(io.BytesIO(wav_bytes(index)), dtype="float32")[0]),
        )


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,audio,text\n")
    with pytest.raises(UserError, match=r"train\.csv: unknown kind of corpus; must be \.tar or \.jsonl"):
        find_segments(str(tmp_path / "train.csv"))


@pytest.mark.parametrize("size", [1, 50, 100, 1 << 20])
def test_every_line_belongs_to_the_one_segment_in_which_it_begins(
    lines: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", size)
    items = [item for part in find_segments(str(lines)) for _, item in part.items(part.start, None)]
    assert [item.id for item in items if isinstance(item, Utterance)] == [f"u{i}" for i in range(COUNT)]


def test_reading_resumes_at_any_place_that_it_gave(lines: Path, shards: Path) -> None:
    for path in (lines, shards / "train-001.tar"):
        (segment,) = find_segments(str(path))
        whole = list(segment.items(segment.start, None))
        for number, (place, _) in enumerate(whole, start=1):
            assert list(segment.items(place, None)) == whole[number:]


def test_patterns_that_fit_nothing_and_empty_files_are_named(tmp_path: Path) -> None:
    assert "fits no file; must be a .tar or .jsonl file" in error_of(find_segments, str(tmp_path / "*.tar"))
    (tmp_path / "train.jsonl").touch()
    assert "all files are empty" in error_of(find_segments, str(tmp_path / "train.jsonl"))
