"""RESULTS.md from stored rows: every cell comes from a row, seeds are pooled, aims are judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qat.evaluation.significance import paired_difference
from qat.report.row import Row
from qat.suite.results import acceptance, judge, render, table_markdown, verdict, write_results
from qat.suite.spec import Aim, Published, Suite, SuiteRow, SuiteTable
from qat.suite.store import Results
from qat.suite.view import View

WORDS = [10] * 40
FLOAT = [0] * 36 + [1] * 4  # 1 %
WORSE = [1] * 20 + [0] * 16 + [1] * 4  # 6 %


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    rows = (
        SuiteRow("mine", "w8a8", "PTQ", ("--qat", "ptq_mse")),
        SuiteRow("mine", "w3a8", "PTQ", ("--qat", "ptq_mse")),
        SuiteRow("mine", "qat", "QAT", ("--qat", "deterministic"), (1, 2)),
        SuiteRow("mine", "ada", "AdaRound", ("--qat", "adaround")),
        SuiteRow("mine", "later", "not yet", ("--qat", "ptq_max")),
        SuiteRow("mine", "broken", "broken", ("--qat", "ptq_max")),
    )
    published = (
        Published("base", ("float",), 3.16, 1.1),
        Published("8 bit", ("w8a8", "w3a8"), 3.58, None),
        Published("", ("qat", "ada", "later", "broken")),
    )
    return Suite(
        name="demo",
        title="Demo",
        configs={"mine": tmp_path / "mine.yaml"},
        rows=rows,
        tables=(SuiteTable("Table 1", "mine", published),),
        curves={"nearest": ("w8a8", "w3a8"), "QAT": ("qat",)},
        aims=(Aim("no loss", ("w8a8",), "insignificant"),),
    )


@pytest.fixture
def results(row: Row, float_row: Row, tmp_path: Path) -> Results:
    def ours(name: str, run: str, errors: list[int], **fields: object) -> Row:
        count = sum(errors)
        counts = {"substitutions": count, "deletions": 0, "insertions": 0, "reference_words": 400}
        made = {**row, **counts, "wer": count / 4, "utterances": 40, "suite_row": f"mine/{name}", "run": run}
        return {**made, **fields}

    rows = [
        {**float_row, "suite_row": "mine/float", "reference_words": 400, "substitutions": 4, "wer": 1.0},
        ours("w8a8", "w8a8-s1", FLOAT),
        ours("w3a8", "w3a8-s1", WORSE, weight_bits=3, size_mb=0.9),
        ours("qat", "qat-s1", FLOAT),
        ours("qat", "qat-s2", WORSE),
        ours("ada", "ada-s1", [1] * 4 + FLOAT[4:], weight_bits=3),
    ]
    counts = {
        "w8a8/s1": FLOAT,
        "w3a8/s1": WORSE,
        "qat/s1": FLOAT,
        "qat/s2": WORSE,
        "ada/s1": [1] * 4 + FLOAT[4:],
    }
    errors = {f"mine/{key}": {"test_seen": value} for key, value in counts.items()}
    errors |= {"mine/words": {"test_seen": WORDS}, "mine/float": {"test_seen": FLOAT}}
    runs = {"mine/broken/s1": {"status": "failed", "sha256": "x", "error": "no such file", "minutes": 0.1}}
    return Results(tmp_path, "demo", rows, runs, errors)


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


def test_seeds_are_pooled_over_the_same_utterances(suite: Suite, results: Results) -> None:
    cell = View(suite, results).cell("mine/qat", "test_seen")
    assert cell is not None and cell.difference is not None
    pooled = np.add(FLOAT, WORSE)
    expected = paired_difference(pooled, 2 * np.asarray(FLOAT), 2 * np.asarray(WORDS), seed=0)
    assert cell.difference == expected
    assert cell.wer == pytest.approx(3.5) and cell.spread == pytest.approx(np.std([1.0, 6.0], ddof=1))
    assert cell.seeds == 2


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


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (Aim("x", ("w8a8",), "insignificant"), True),
        (Aim("x", ("w3a8",), "insignificant"), False),
        (Aim("x", ("w3a8", "w8a8"), "insignificant"), True),  # the better of the two counts
        (Aim("x", ("ada", "w3a8"), "recovers", 0.6), True),
        (Aim("x", ("ada", "w3a8"), "recovers", 0.9), False),
        (Aim("x", ("w3a8", "ada"), "relative", 1.0), True),  # the better of the two counts
        (Aim("x", ("w3a8",), "relative", 1.0), False),
        (Aim("x", ("later",), "relative", 1.0), None),
        (Aim("x", ("ada", "later"), "recovers", 0.6), None),
        (Aim("x", ("ada", "w8a8"), "recovers", 0.6), None),  # nearest loses nothing there
    ],
)
def test_aims_are_judged(aim: Aim, met: bool | None, suite: Suite, results: Results) -> None:
    assert judge(View(suite, results), aim, "mine")[1] is met


def test_a_missed_aim_says_why_and_a_met_one_does_not(suite: Suite, results: Results) -> None:
    missed = {"mine": "too few levels", "other": "not this one"}
    both = (
        Aim("x", ("w3a8",), "insignificant", missed=missed),
        Aim("y", ("w8a8",), "insignificant", missed=missed),
    )
    told = acceptance(View(replace(suite, aims=both), results))
    assert "- x (mine): too few levels\n" in told
    assert told.count("too few levels") == 1 and "not this one" not in told


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
        "| no loss | mine | +0.00 (p 1.000) | yes |",
        "- `mine/later`: not run yet",
        "- `mine/broken`: failed: no such file",
    ):
        assert shown in text, shown
    again = Results.load(tmp_path, "demo")
    assert (again.rows, again.runs, again.errors) == (results.rows, results.runs, results.errors)


def test_nothing_measured_is_said_not_filled(suite: Suite, tmp_path: Path) -> None:
    text = render(View(suite, Results(tmp_path, "demo")), "x", {"rows": "", "errors": "", "runs": ""})
    assert text.count("not run yet") >= 6 and "not measured" in text
