"""A suite of tiny runs, and stored rows of another, made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from qat.report.row import Row, row_from
from qat.suite.spec import Aim, Published, Suite, SuiteRow, SuiteTable
from qat.suite.store import Results
from tests.report.conftest import float_row, row  # noqa: F401

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
def results(
    row: Row,  # noqa: F811
    float_row: Row,  # noqa: F811
    tmp_path: Path,
) -> Results:
    def ours(name: str, run: str, errors: list[int], **fields: object) -> Row:
        count = sum(errors)
        counts = {"substitutions": count, "deletions": 0, "insertions": 0, "reference_words": 400}
        made = {**counts, "wer": count / 4, "utterances": 40, "suite_row": f"mine/{name}", "run": run}
        return row_from({**row.to_dict(), **made, **fields})

    rows = [
        replace(float_row, suite_row="mine/float", reference_words=400, substitutions=4, wer=1.0),
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


@pytest.fixture
def suite_file(tiny: Path, tmp_path: Path) -> Path:
    """One model, two rows that work and one that fails, one table."""
    content = {
        "models": {"mine": str(tiny)},
        "rows": {
            "mine": {
                "w8a8": {"title": "PTQ", "args": "--qat ptq_mse --evaluation.repeats 20"},
                "broken": {"args": "--qat ptq_mse --qat.weight_bits 1"},
                "w3a8": {"title": "PTQ", "args": "--qat ptq_max --qat.weight_bits 3 --evaluation.repeats 20"},
            }
        },
        "tables": [
            {
                "heading": "Table 1",
                "model": "mine",
                "rows": [
                    {"published": "base", "wer": 3.16, "time_s": 1.1, "rows": ["float"]},
                    {"published": "8 bit", "wer": 3.58, "rows": ["w8a8", "w3a8", "broken"]},
                ],
            }
        ],
        "curves": {"nearest": ["w8a8", "w3a8"]},
        "aims": [{"text": "no loss", "rows": ["w8a8", "w3a8"], "kind": "relative", "limit": 0.5}],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
