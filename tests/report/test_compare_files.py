"""A comparison as Markdown, JSON, CSV and figures, and the command that writes them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from qat.cli import evaluate as commands
from qat.evaluation.significance import Difference
from qat.report.compare import Line, compare, read_run
from qat.report.compare_files import difference_text, markdown
from qat.report.row import Row
from qat.system.errors import UserError
from tests.report.conftest import Make


def test_a_setting_that_a_run_lacks_is_not_set(make: Make) -> None:
    runs = [read_run(make("one", [0])), read_run(make("two", [1], data={"augment": True}))]
    assert "| `data.augment` | not set | true |" in markdown(compare(runs))


def test_a_difference_stands_with_its_interval_and_p(row: Row) -> None:
    gap = Difference(mean=0.31, ci95=(0.02, 0.65), p_value=0.0002)
    assert difference_text(Line("two", row, gap)) == "+0.31 [+0.02, +0.65] (p < 0.001)"
    assert difference_text(Line("one", row, None, "the first run")) == "n/a (the first run)"


def test_latencies_from_different_places_are_said_to_be(make: Make) -> None:
    runs = [read_run(make("one", [0])), read_run(make("two", [1], row={"threads": 4}))]
    assert "cannot be compared (threads: 1, 4)" in markdown(compare(runs))


def test_searches_are_named_where_a_run_has_one(make: Make) -> None:
    plain = read_run(make("one", [0]))
    searched = read_run(make("two", [1], row={"decoding": "attention, beam 8, lm 0.5"}))
    text = markdown(compare([plain, searched]))
    assert "| size MB | search |" in text and "| 1.40 | attention, beam 8, lm 0.5 |" in text
    assert "| 1.40 | - |" in text and "search" not in markdown(compare([plain, read_run(make("three", []))]))


@pytest.mark.parametrize("form", ["md", "json", "csv"])
def test_the_command_prints_one_format_and_writes_all(
    make: Make, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    make("one", [0, 1])
    make("two", [])
    commands.run(["compare", "one", "two", "--format", form, "--out", "side", "--sort", "size", "--no-wandb"])
    printed = capsys.readouterr().out
    assert printed == Path(f"side/comparison.{form}").read_text()
    assert {path.name for path in Path("side").iterdir()} == {
        *("comparison.md", "comparison.json", "comparison.csv"),
        *("wer.png", "wer_size.png", "wer_latency.png"),
    }
    lines = list(csv.DictReader(io.StringIO(Path("side/comparison.csv").read_text())))
    gaps = {line["run"]: line["difference"] for line in lines}
    assert gaps["one"] == "" and float(gaps["two"]) == pytest.approx(-5.0)
    found = json.loads(Path("side/comparison.json").read_text())
    assert found["baseline"] == "one" and len(found["changes"]) == 2


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["one"], "compare: 1 run (one), must be at least two"),
        (["one", "ghost"], "'ghost': no run folder, and no W&B id or group"),
        (["one", "bare"], "bare: holds no report.json"),
        (["one", "old"], "old/utterances.json: is missing; measure the run again"),
        (["one", "torn"], "torn/utterances.json: not the texts of a run"),
        (["one", "elsewhere"], "no test split in common (one: test_seen; elsewhere: test_far)"),
    ],
)
def test_a_mistake_is_one_line(make: Make, targets: list[str], message: str) -> None:
    make("one", [0])
    Path("checkpoints/bare").mkdir()
    (make("old", [0]) / "utterances.json").unlink()
    (make("torn", [0]) / "utterances.json").write_text('{"splits": ')
    make("elsewhere", [0], row={"split": "test_far"})
    with pytest.raises(UserError) as caught:
        commands.run(["compare", *targets, "--no-wandb"])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("checkpoints/comparisons").exists()
