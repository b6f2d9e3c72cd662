"""RESULTS.md from stored rows: every cell comes from a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qat.suite.results import figure_files, render, results_markdown, table_markdown, verdict, write_results
from qat.suite.spec import ROOT, Suite, load_suite
from qat.suite.store import Results
from qat.suite.view import View
from tests.suite.conftest import FLOAT, WORSE


def test_a_table_holds_published_and_our_numbers(suite: Suite, results: Results) -> None:
    text = table_markdown(View(suite, results), suite.tables[0])
    lines = text.splitlines()
    assert lines[2].startswith("| base | 3.16 / 1.1 | float | float | 1.00 ") and "| reference |" in lines[2]
    assert lines[3].startswith("| 8 bit | 3.58 (+0.42) / - | PTQ | W8 A8 | 1.00 ")
    assert lines[4].startswith("|  |  | PTQ | W3 A8 | 6.00 ")
    assert "24.0 / 12.0 (2.00x)" in lines[3] and "98.0 %" in lines[3] and "0.90" in lines[4]
    assert lines[5].startswith("| (ours only) |  | QAT ")
    assert "not run yet" in lines[7] and "failed: no such file" in lines[8]
    assert len({line.count("|") for line in lines}) == 1


def test_verdicts(suite: Suite, results: Results) -> None:
    view = View(suite, results)
    assert verdict(view, "mine/w8a8") == "no significant difference to float"
    assert verdict(view, "mine/w3a8") == "loses 5.00 points (+500 %)"
    results.errors["mine/float"]["test_seen"], results.errors["mine/w8a8/s1"]["test_seen"] = WORSE, FLOAT
    assert verdict(View(suite, results), "mine/w8a8") == "better than float by 5.00"


def test_a_method_is_shown_only_where_the_model_has_a_row_of_it(suite: Suite, results: Results) -> None:
    curves = {**suite.curves, "longer": ("", "ada"), "elsewhere": ("of_another_model",)}
    text = render(
        View(replace(suite, curves=curves), results), "make tables", {"rows": "", "errors": "", "runs": ""}
    )
    assert "| bits | nearest | QAT | longer |" in text
    assert "| W3 A8 | 6.00 " in text and "| W8 A8 | 1.00 " in text
    ours = next(line for line in text.splitlines() if line.startswith("| W8 A8 | 1.00 "))
    assert ours.endswith(" |  |")  # no row of these bits


def test_the_whole_is_written_with_figures(suite: Suite, results: Results, tmp_path: Path) -> None:
    results.save()
    written = write_results(suite, results, tmp_path / "RESULTS.md", "python evaluate.py suite demo")
    text = (tmp_path / "RESULTS.md").read_text()
    assert [path.name for path in written[1:]] == [
        "demo_mine_bits.png",
        "demo_mine_size.png",
        "demo_mine_latency.png",
    ]
    assert all(path.stat().st_size > 5_000 for path in written[1:])
    for shown in (
        "# Demo",
        "`python evaluate.py suite demo`",
        "[rows](demo.json)",
        "![demo_mine_bits](demo_mine_bits.png)",
        "| no loss | mine | +0.00 (p = 1.000) | yes |",
        "- `mine/later`: not run yet",
        "- `mine/broken`: failed: no such file",
    ):
        assert shown in text, shown
    again = Results.load(tmp_path, "demo")
    assert (again.rows, again.runs, again.errors) == (results.rows, results.runs, results.errors)


def test_nothing_measured_is_said_and_not_filled(suite: Suite, tmp_path: Path) -> None:
    text = render(View(suite, Results(tmp_path, "demo")), "x", {"rows": "", "errors": "", "runs": ""})
    assert text.count("not run yet") >= 6 and "not measured" in text


def test_the_committed_results_are_those_of_the_stored_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    suite = load_suite("seed_tables")
    results = Results.load(ROOT / "docs" / "results", suite.name)
    assert results.rows and (ROOT / "RESULTS.md").is_file()
    text = results_markdown(View(suite, results), ROOT, "python evaluate.py suite seed_tables")
    assert (ROOT / "RESULTS.md").read_text() == text
    assert all(path.is_file() for files in figure_files(View(suite, results)).values() for path in files)


def test_a_further_model_is_a_group_of_its_own_that_names_its_search(suite: Suite, results: Results) -> None:
    rows = [replace(row, model="attention") for row in suite.rows]
    also = replace(suite.tables[0], also=("attention",))
    wider = replace(
        suite,
        configs={**suite.configs, "attention": suite.configs["mine"]},
        rows=(*suite.rows, *rows),
        tables=(also,),
    )
    text = render(View(wider, results), "make tables", {"rows": "", "errors": "", "runs": ""})
    line = next(line for line in text.splitlines() if line.startswith("| **attention** |"))
    assert line.endswith("| not run yet |") and line.count("|") == text.splitlines()[
        text.splitlines().index(line) - 1
    ].count("|")
    assert "- `attention/*`: not run yet (6 rows)" in text and "- `mine/later`: not run yet" in text
    theirs = [
        replace(
            row,
            suite_row=str(row.suite_row).replace("mine", "attention"),
            decoding="attention, beam 8, lm 0.5",
        )
        for row in results.rows
    ]
    results.rows += theirs
    results.errors |= {key.replace("mine", "attention"): value for key, value in results.errors.items()}
    lines = table_markdown(View(wider, results), also).splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("| **attention**"))
    assert lines[place].startswith("| **attention**: attention, beam 8, lm 0.5 |")
    assert lines[place + 2].startswith("| 8 bit | 3.58 (+0.42) / - | PTQ | W8 A8 | 1.00 ")
    assert len({line.count("|") for line in lines}) == 1
