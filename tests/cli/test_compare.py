"""`evaluate.py compare`: where it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.cli.compare import side_by_side
from qat.cli.evaluate import parse
from tests.report.conftest import Make, make, row  # noqa: F401


def test_a_comparison_lies_in_a_folder_named_for_its_runs(
    make: Make,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("one", "two", "three"):
        make(name, [0])
    side_by_side(parse(["compare", "one", "two", "three", "--no-wandb"]))
    folder = Path("checkpoints/comparisons/one--two--and-1")
    said = capsys.readouterr()
    assert said.out == (folder / "comparison.md").read_text() and str(folder) in said.err
