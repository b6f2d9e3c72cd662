"""Fill the tables of README.md from stored rows: `python -m qat.report.readme`.

Everything between `<!-- rows: FILE -->` and `<!-- end -->` is rewritten from that report; likewise
`<!-- table: FILE -->` from the markdown table that a benchmark wrote.
"""

from __future__ import annotations

import re
from pathlib import Path

from qat.errors import UserError
from qat.report.provenance import write_text
from qat.report.row import load_report
from qat.report.tables import TERMINAL, Column, markdown_table, share, short

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- (rows|table): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS: list[Column] = [
    *TERMINAL,
    ("weights quantized", short("coverage", lambda row: share(row, "coverage.weights"))),
    ("frames that differ", short("parity", lambda row: share(row, "parity.argmax_disagreement"))),
]


def fill(text: str, root: Path = ROOT) -> str:
    """The text with every block rewritten from its file.

    Raises:
        UserError: a block names a file that is not there.
    """

    def block(match: re.Match[str]) -> str:
        path = root / match[3]
        if not path.is_file():
            raise UserError(f"README.md: {match[3]} is named in a block, and there is no such file")
        if match[2] == "table":
            return f"{match[1]}{path.read_text().strip()}\n{match[4]}"
        return f"{match[1]}{markdown_table(load_report(path), COLUMNS)}{match[4]}"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    write_text(readme, fill(readme.read_text()))
