"""Corpora that several tests of the data modules read and none changes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.datamodules.corpora import MINI, SPLITS, add_member, noise, wav_bytes

COUNT = 60


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tar files of five utterances each; the text is in JSON or in a text file."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(12):
        with tarfile.open(folder / f"train-{shard:03}.tar", "w") as archive:
            for index in range(5 * shard, 5 * shard + 5):
                add_member(archive, f"u{index}.wav", wav_bytes(index))
                if index % 2:
                    add_member(archive, f"u{index}.txt", b"Turn on")
                else:
                    fields = {"id": f"u{index}", "text": "off"}
                    add_member(archive, f"u{index}.json", json.dumps(fields).encode())
    return folder


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON lines file of as many utterances, of lines of many lengths."""
    folder = tmp_path_factory.mktemp("lines")
    rows = []
    for index in range(COUNT):
        (folder / f"u{index}.wav").write_bytes(wav_bytes(index))
        row = {"id": f"u{index}", "audio": f"u{index}.wav", "text": "one two", "speaker": "x" * (index % 7)}
        rows.append(json.dumps({**row, "duration_s": len(noise(index)) / 16_000}))
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n\n")
    return folder / "train.jsonl"


@pytest.fixture(scope="session")
def rows() -> dict[str, list[dict]]:
    """The lines of each manifest of the mini corpus."""
    return {
        split: [json.loads(line) for line in (MINI / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in SPLITS
    }
