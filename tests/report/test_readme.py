"""Tables of pages from stored reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qat.report.readme import fill, fill_blocks, pages
from qat.report.row import Row
from qat.system.errors import UserError


@pytest.fixture
def root(row: Row, float_row: Row, tmp_path: Path) -> Path:
    """A report of two test sets."""
    rows = [
        replace(item, split=split).to_dict() for split in ("test_a", "test_b") for item in (float_row, row)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_block_holds_all_rows_and_the_rest_of_the_page_stays(root: Path) -> None:
    page = "# Page\n\n<!-- rows: rows.json -->\nold\n<!-- end -->\n\nafter\n"
    text = fill(page, root)
    assert text.startswith("# Page\n\n<!-- rows: rows.json -->\n| split |")
    assert text.endswith("|\n<!-- end -->\n\nafter\n") and "old" not in text
    assert text.count("| test_a |") == text.count("| test_b |") == 2
    assert "frames that differ" in text and fill(text, root) == text


def test_a_split_shows_its_rows_in_few_columns(root: Path) -> None:
    text = fill("<!-- rows: rows.json split=test_b -->\n<!-- end -->\n", root)
    lines = text.splitlines()
    assert lines[0] == "<!-- rows: rows.json split=test_b -->" and len(lines) == 6
    assert lines[1].startswith("| method |") and "frames that differ" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere.json", r"nowhere\.json"),
        ("rows.json split=test_c", "split=test_a, split=test_b"),
        ("rows.json method=ptq", "split=test_a, split=test_b"),
    ],
)
def test_a_block_that_names_nothing_is_refused(root: Path, words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fill(f"<!-- rows: {words} -->\n<!-- end -->", root)


def test_blocks_of_another_kind_are_left_alone(root: Path) -> None:
    page = "<!-- table: rows.json -->\nold\n<!-- end -->\n<!-- rows: rows.json -->\nold\n<!-- end -->\n"
    text = fill_blocks(page, "table", lambda path, words: f"{path.name}\n", root)
    assert text == page.replace("old", "rows.json", 1)


def test_the_pages_are_the_readme_and_all_of_docs() -> None:
    names = [page.name for page in pages()]
    assert names[0] == "README.md" and {"results.md", "benchmarks.md"} < set(names)
