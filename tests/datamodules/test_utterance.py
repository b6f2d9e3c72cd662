"""From the fields of a manifest's line to an utterance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.audio_file import TarMember
from datamodules.utterance import Utterance, parse_json_line, to_utterance
from tests.datamodules.corpora import error_of, sine, write_audio


def test_null_fields_count_as_missing() -> None:
    line = '{"id": "a", "text": null, "duration_s": 0.5}'
    assert (
        parse_json_line(line, "here")
        == parse_json_line(line.encode(), "here")
        == {"id": "a", "duration_s": 0.5}
    )


@pytest.mark.parametrize("line", ["{", b"\xff\xfe{", "", "[1]", "3", "[" * 100_000])
def test_a_line_that_is_no_json_object_is_named(line: str | bytes) -> None:
    message = error_of(parse_json_line, line, "m.jsonl, line 7")
    assert message.startswith("m.jsonl, line 7: is ") and message.endswith("must be one JSON object per line")


@pytest.mark.parametrize("audio, text", [("audio", "text"), ("wav", "transcript"), ("path", "text")])
def test_every_name_of_a_field_gives_the_same_utterance(tmp_path: Path, audio: str, text: str) -> None:
    path = write_audio(tmp_path / "a.wav", sine(0.5))
    row = {"id": 7, audio: "a.wav", text: " Turn ON ", "speaker": 3}
    assert to_utterance(row, "here", tmp_path) == Utterance("7", path, "turn on", 0.5, "3")


def test_a_given_recording_needs_no_field_and_a_given_duration_no_recording(tmp_path: Path) -> None:
    member = TarMember(tmp_path / "none.tar", 512, 100, "a.wav")
    utterance = to_utterance({"id": "a", "text": "one", "duration_s": "2.5"}, "here", tmp_path, member)
    assert (utterance.audio, utterance.duration_s) == (member, 2.5)


@pytest.mark.parametrize(
    ("field", "value"), [("audio", "a" * 300), ("audio", "a\0b"), ("duration_s", 10**400)]
)
def test_a_value_that_nothing_can_take_is_named(tmp_path: Path, field: str, value: object) -> None:
    write_audio(tmp_path / "a.wav", sine(0.5))
    row = {"id": "a", "audio": "a.wav", "text": "one", field: value}
    assert error_of(to_utterance, row, "m.jsonl, line 7", tmp_path).startswith("m.jsonl, line 7, id 'a': ")


def test_an_utterance_is_read_without_torch() -> None:
    program = "import sys, datamodules.utterance; print({'torch', 'torchaudio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
