"""The recordings: transcripts within the alphabet or left out; missing sources are one clear line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from datamodules.mini.audio import CorpusError
from datamodules.mini.prompts import load_prompts, normalise, plausible


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("press 1 for help, or # to exit...", "press one for help or pound to exit"),
        ("A.M.", "a m"),
        ("slash [/]", "slash"),
        ("3D audio enabled", "three d audio enabled"),
        ("I'm sorry.", "i'm sorry"),
        ("[ascending tones]", None),
        ("dial 1234 now", None),
        ("DAHDI", None),
        ("(1 second of silence)", None),
    ],
)
def test_prompt_normalisation(raw, text):
    assert normalise(raw) == text


def test_only_prompts_with_a_recording_and_a_certain_transcript_are_used(tmp_path: Path) -> None:
    for name in ("hello", "hum", "unidentified-no-callback"):
        (tmp_path / f"{name}.g722").touch()
    transcripts = tmp_path / "core-sounds-en.txt.gz"
    lines = "; a comment\nhello: Hello, world.\nhum: [a hum]\nlost: Lost.\nunidentified-no-callback: No.\n"
    transcripts.write_bytes(gzip.compress(lines.encode()))
    (prompt,) = load_prompts(tmp_path, transcripts)
    assert (prompt.key, prompt.text, prompt.path) == ("hello", "hello world", tmp_path / "hello.g722")


def test_missing_recordings_and_transcripts_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"^no transcripts found; must be core-sounds-en\.txt"):
        load_prompts(tmp_path, tmp_path / "none.txt")
    (tmp_path / "some.txt").write_text("hello: Hello.\n")
    with pytest.raises(CorpusError, match="no usable recording; must be a folder of .g722 files"):
        load_prompts(tmp_path, tmp_path / "some.txt")


def test_a_text_is_plausible_only_at_a_human_pace() -> None:
    text = "turn on the kitchen light"
    assert [plausible(text, seconds) for seconds in (0.5, 1.5, 3.0, 9.0)] == [False, True, True, False]
    assert not plausible("word " * 200, 16.0)
