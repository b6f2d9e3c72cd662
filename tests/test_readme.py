"""The README: its commands parse, its targets exist, its tables are those of the stored rows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from benchmarks import publish
from qat import cli
from qat.commands import parser
from qat.report.readme import fill
from tests.conftest import ROOT
from tests.test_cli import ParseOnly

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", TEXT, re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
TRAIN = [
    line for line in LINES if line.startswith("python train.py") and "[" not in line and " -h" not in line
]


def test_tables_are_those_of_the_stored_rows() -> None:
    assert fill(TEXT) == TEXT


def test_the_tables_of_speeds_are_those_of_the_stored_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish.PUBLISHED_AT
    monkeypatch.setattr(publish, "PUBLISHED_AT", tmp_path)
    publish.main()
    assert (tmp_path / "throughput.md").read_text() == (folder / "throughput.md").read_text()
    stored = (folder / "speed.md").read_text()
    assert (tmp_path / "speed.md").read_text() == stored
    assert stored.count("published size") == 2 and stored.count("training step") == 4
    assert stored.count("calibration by") == 8


def test_make_targets_exist() -> None:
    targets = [line.split()[1] for line in LINES if line.startswith("make ")]
    makefile = (ROOT / "Makefile").read_text()
    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("line", TRAIN)
def test_train_commands_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "SpeechCLI", ParseOnly)
    args: list[Any] = shlex.split(line)[2:]
    assert cli.build_cli([*args, "--run", "x/y"]).config.data.class_path.startswith("datamodules.")


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("torchrun")])
def test_torchrun_leaves_our_flags_to_us(line: str) -> None:
    """Without `--` it takes `--run` for a short form of its own flags."""
    ours = get_args_parser().parse_args(shlex.split(line)[1:])
    assert ours.training_script == "train.py" and "--run" in ours.training_script_args


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_a_block_that_names_no_file_is_refused() -> None:
    from qat.errors import UserError

    with pytest.raises(UserError, match=r"nowhere\.json"):
        fill("<!-- rows: nowhere.json -->\n<!-- end -->")


@pytest.mark.parametrize(
    "line", [line for line in LINES if line.startswith("python evaluate.py") and "|" not in line]
)
def test_evaluate_commands_parse(line: str) -> None:
    words = shlex.split(line.replace("[", "").replace("]", ""))
    assert parser().parse_args(words[2:]).command in ("suite", "report", "transcribe", "compare")
