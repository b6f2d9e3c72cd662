"""`evaluate.py suite`: its arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from qat.cli.evaluate import parse
from qat.cli.suite import configurations, suite
from qat.system.errors import UserError
from tests.conftest import ROOT


def test_configurations_are_given_by_model() -> None:
    assert configurations(["crdnn=a.yaml", "wav2vec2=b=c.yaml"]) == {
        "crdnn": "a.yaml",
        "wav2vec2": "b=c.yaml",
    }
    with pytest.raises(UserError, match="--config crdnn: must be MODEL=FILE"):
        configurations(["crdnn"])


def test_the_number_of_jobs_is_checked_before_anything_is_read() -> None:
    with pytest.raises(UserError, match="--jobs 0: must be a whole number from 1"):
        suite(parse(["suite", "nothing", "--jobs", "0"]))


def test_a_suite_that_another_process_runs_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take that one's runs for those of a suite that was killed, and end them."""
    for name, value in (
        ("load_suite", None),
        ("suite_folder", tmp_path),
        ("stored_results", SimpleNamespace(rows=[])),
        ("jobs_of", []),
    ):
        monkeypatch.setattr(f"qat.cli.suite.{name}", lambda *arguments, value=value: value)
    code = "import sys; from qat.system.lock import *; print(try_hold(Path(sys.argv[1])), flush=True); sys.stdin.read()"
    command, pipe = [sys.executable, "-c", code, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        with pytest.raises(UserError, match=f"suite: {tmp_path} is in use by process {process.pid} on"):
            suite(parse(["suite", "mine"]))
        process.communicate()
    suite(parse(["suite", "mine"]))
