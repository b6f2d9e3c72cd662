"""Fill the tables of README.md and docs/*.md from stored reports: `python -m qat.report.readme`.

Everything between `<!-- rows: FILE -->` and `<!-- end -->` is rewritten from that report; after
`<!-- rows: FILE split=NAME -->` stand the rows of one test set, in the few columns that a run prints.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from qat.report.cells import share, short
from qat.report.row import load_report
from qat.report.tables import TERMINAL, Column, markdown_table
from qat.system.errors import UserError
from qat.system.files import write_text

ROOT = Path(__file__).resolve().parents[2]
COLUMNS: list[Column] = [
    *TERMINAL,
    ("weights quantized", short("coverage", lambda row: share(row, "coverage.weights"))),
    ("frames that differ", short("parity", lambda row: share(row, "parity.argmax_disagreement"))),
]


def pages(root: Path = ROOT) -> list[Path]:
    """The README and the pages in docs/."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def fill_blocks(
    text: str, kind: str, make: Callable[[Path, str], str], root: Path = ROOT, may_be_absent: bool = False
) -> str:
    """The text with every block `<!-- KIND: FILE WORDS -->` to `<!-- end -->` rewritten.

    Args:
        text: a page.
        kind: what its opening says, such as `rows` or `table`.
        make: file and the words after it (mostly none) -> content of the block, which ends with a line break.
        root: folder that the files' names start from.
        may_be_absent: whether `make` also writes for a file that is not there.

    Raises:
        UserError: a block names a file that is not there and may not be absent.
    """

    def block(match: re.Match[str]) -> str:
        path = root / match[2]
        if not (may_be_absent or path.is_file()):
            raise UserError(f"{match[1].strip()}: there is no such file")
        return f"{match[1]}{make(path, match[3] or '')}{match[4]}"

    opening = rf"(<!-- {kind}: (\S+)(?: (\S+))? -->\n)"
    return re.sub(rf"{opening}.*?(<!-- end -->)", block, text, flags=re.DOTALL)


def rows_table(path: Path, words: str) -> str:
    """The table of a report, or of one of its test sets (`split=NAME`).

    Raises:
        UserError: the words are something else, or the report holds no such test set.
    """
    rows = load_report(path)
    if not words:
        return markdown_table(rows, COLUMNS)
    key, _, split = words.partition("=")
    chosen = [row for row in rows if row.split == split]
    if key != "split" or not chosen:
        allowed = ", ".join(dict.fromkeys(f"split={row.split}" for row in rows))
        raise UserError(f"{path.name}: rows of {words!r} are not there, must be one of {allowed}")
    return markdown_table(chosen, [column for column in TERMINAL if column[0] != "split"])


def fill(text: str, root: Path = ROOT) -> str:
    """The text with every table of rows rewritten from its report (see `fill_blocks` and `rows_table`)."""
    return fill_blocks(text, "rows", rows_table, root)


if __name__ == "__main__":
    for page in pages():
        write_text(page, fill(page.read_text()))
