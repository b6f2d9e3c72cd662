"""Each stored result file of docs/benchmarks.md gives a table."""

from __future__ import annotations

import json

import pytest

from benchmarks.publish import SECTIONS, beam_rows, equality_rows
from benchmarks.result_file import RESULTS


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_a_stored_file_has_rows(name: str) -> None:
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not measured yet")
    assert list(SECTIONS[name](json.loads(path.read_text())["results"]))


def test_rows_of_the_search_say_what_was_equal_and_how_wide_the_beam_was() -> None:
    equal = {
        "split": "dev",
        "beam": 8,
        "utterances": 9,
        "equal": 7,
        "tokens": 30,
        "largest_score_difference": 1e-6,
    }
    assert next(equality_rows([equal]))["same tokens"] == 7
    beam = {"model": "integer", "beam": 8, "utterances": 9, "wer": 5.0, "median_ms": 3.4, "ratio": 1.5}
    row = next(beam_rows([beam]))
    assert (row["dev WER %"], row["median ms"], row["time / the narrowest's"]) == ("5.00", "3", "1.50")
