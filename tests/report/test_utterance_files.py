"""utterances.json and worst.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qat.evaluation.error_rates import count_utterances
from qat.report.utterance_files import Transcript, load_transcripts, load_worst, save_utterances, save_worst
from qat.system.errors import UserError
from tests.evaluation.measurements import REFERENCES, float_measurement, integer_measurement


def test_every_text_of_every_file_is_kept_and_the_runs_own_are_read(tmp_path: Path) -> None:
    path = tmp_path / "utterances.json"
    save_utterances(path, [float_measurement(), integer_measurement()])
    stored = json.loads(path.read_text())
    assert stored["splits"]["test_seen"] == {"ids": ["a", "b"], "references": REFERENCES, "words": [4, 3]}
    assert list(stored["files"]) == ["float", "model"]
    assert stored["files"]["float"]["test_real"] == {"hypotheses": REFERENCES, "errors": [0, 0]}
    own = load_transcripts(path)
    assert own["test_seen"]["a"] == Transcript(REFERENCES[0], "turn on a light", 1, 4)
    assert list(own) == ["test_seen", "test_real"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing; measure the run again with `python evaluate.py report"),
        ("{", "not the texts of a run"),
        ('{"files": {}, "splits": {}}', "not the texts of a run"),
        ('{"files": {"model": {}}, "splits": {"a": {}}}', "not the texts of a run"),
    ],
)
def test_what_is_no_such_file_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "utterances.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_transcripts(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_worst_survive_the_disk(tmp_path: Path) -> None:
    worst = count_utterances(["b", "a"], ["x y z", "x y"], ["", "x q"], [1, 1])
    save_worst(tmp_path / "worst.json", {"dev": worst})
    assert load_worst(tmp_path / "worst.json")["dev"][0]["deletions"] == 3
    assert load_worst(tmp_path / "none.json") == {}
