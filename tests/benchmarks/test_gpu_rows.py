"""Every finished case is in the file at once."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.gpu_rows import FAILED, LONGEST_NOTE, MEASURED, NOT_RUN, PASSED, Results, check_row, step_row


def test_the_file_holds_every_row_as_soon_as_it_is_known(tmp_path: Path) -> None:
    path, said = tmp_path / "gpu.json", list[str]()
    results = Results({"device": "a GPU"}, list, path, said.append)
    rows = [
        check_row("presets", "crdnn off", PASSED, 1.26, largest_relative_difference=0.5),
        step_row("crdnn", "16 x 15 s", "float", MEASURED, 2.0, step_ms=3.0),
        check_row("presets", "crdnn low_bit", FAILED, 1.0, "Traceback\nValueError: no"),
    ]
    for count, row in enumerate(rows, 1):
        results.add(row)
        stored = json.loads(path.read_text())
        assert stored["results"] == rows[:count]
    assert stored["device"] == "a GPU" and stored["duration_s"] >= 0
    assert said[1].endswith("crdnn, 16 x 15 s: float") and said[2].endswith("crdnn low_bit: ValueError: no")
    assert results.count(PASSED, "check") == 1 and results.count(FAILED, "step") == 0


def test_of_a_long_note_the_end_is_kept() -> None:
    row = check_row("presets", "crdnn off", FAILED, note="x" * LONGEST_NOTE + "the end")
    assert len(row["note"]) == LONGEST_NOTE and row["note"].endswith("the end")


def test_an_update_replaces_what_it_measures_again_and_says_of_the_rest_which_commit_it_is_of(
    tmp_path: Path,
) -> None:
    path = tmp_path / "gpu.json"
    cases = ("crdnn off", "crdnn compile", "crdnn files")
    first = Results({"git_commit": "old"}, list, path, say=lambda line: None)
    for name, status in zip(cases, (PASSED, FAILED, PASSED), strict=True):
        first.add(check_row("presets", name, status))
    second = Results({"git_commit": "new"}, list, path, say=lambda line: None)
    second.keep(path)
    second.add(check_row("presets", "crdnn compile", PASSED))
    second.add(check_row("presets", "crdnn files", NOT_RUN))
    second.add(step_row("crdnn", "16 x 15 s", "float", NOT_RUN))
    stored = json.loads(path.read_text())["results"]
    found = [(row.get("case"), row["status"], row.get("git_commit")) for row in stored]
    assert found == [
        *(("crdnn off", PASSED, "old"), ("crdnn files", PASSED, "old")),
        *(("crdnn compile", PASSED, None), (None, NOT_RUN, None)),
    ]
