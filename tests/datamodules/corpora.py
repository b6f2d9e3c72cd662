"""Tiny corpora on disk for the tests of the data modules."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.audio_file import SAMPLE_RATE
from datamodules.mini_corpus import MINI_FOLDER
from qat.system.errors import UserError

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
MINI = MINI_FOLDER
SPLITS = ("train", "dev", "test_seen", "test_unseen", "test_real")
HELD_OUT = {"hibari-heart", "festival-ked"}


def sine(duration_s: float, frequency_hz: float = 440.0, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A sine `(S,)` of amplitude 0.5."""
    time_s = np.arange(round(duration_s * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def write_audio(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE, subtype: str = "") -> Path:
    """Writes WAV, FLAC or Ogg Opus, by suffix."""
    subtype = subtype or {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "OPUS"}[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def write_jsonl(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_split(folder: Path, split: str, count: int, suffix: str = ".wav") -> Path:
    """`count` utterances of 0.3 to 1.2 s and their manifest."""
    rng = np.random.default_rng(len(split))
    rows: list[dict[str, object]] = []
    for i in range(count):
        name = f"{split}-{i}"
        write_audio(folder / "audio" / f"{name}{suffix}", sine(rng.uniform(0.3, 1.2), 200 + 10 * i))
        rows.append({"id": name, "audio": f"audio/{name}{suffix}", "text": WORDS[i % len(WORDS)]})
    return write_jsonl(folder / f"{split}.jsonl", rows)


def write_librispeech(home: Path, subset: str, chapters: Sequence[str] = ("84-7", "1089-3")) -> Path:
    """A subset in the official layout: two utterances per chapter."""
    for chapter in chapters:
        speaker, number = chapter.split("-")
        folder = home / subset / speaker / number
        names = [f"{speaker}-{number}-{i:04d}" for i in range(2)]
        for i, name in enumerate(names):
            write_audio(folder / f"{name}.flac", sine(0.5 + 0.25 * i))
        lines = "".join(f"{name} IT'S UTTERANCE {WORDS[i].upper()}\n" for i, name in enumerate(names))
        (folder / f"{speaker}-{number}.trans.txt").write_text(lines)
    return home / subset


def error_of(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> str:
    """The message, of one line, of the `UserError` that a call raises."""
    with pytest.raises(UserError) as error:
        call(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


def noise(index: int) -> np.ndarray:
    """Seeded noise `(S,)` of about 0.2 to 0.4 s."""
    return 0.1 * np.random.default_rng(index).standard_normal(3_000 + 200 * (index % 17))


def wav_bytes(index: int) -> bytes:
    """A WAV file of `noise`."""
    file = io.BytesIO()
    soundfile.write(file, noise(index), 16_000, format="WAV")
    return file.getvalue()


def endless_flac(samples: np.ndarray) -> bytes:
    """As an encoder writes it that cannot go back to the header: length and MD5 are zero."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    content = bytearray(file.getvalue())
    content[21] &= 0xF0
    content[22:42] = bytes(20)
    return bytes(content)


def piped_wav(samples: np.ndarray, size: int) -> bytes:
    """As a program writes it that cannot go back to the header: `size` bytes of audio."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    content = bytearray(file.getvalue())
    content[40:44] = content[4:8] = size.to_bytes(4, "little")
    return bytes(content)


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file to an open tar file."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def every(rows: dict[str, list[dict]]) -> list[dict]:
    """The lines of all manifests of the mini corpus."""
    return [row for split in SPLITS for row in rows[split]]
