"""The scripts themselves: exit status and one line on stderr."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train.py", ["--qat", "nonsense"]),
        ("evaluate.py", ["report", "no-such-run"]),
        ("evaluate.py", ["frob"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(script: str, arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1
