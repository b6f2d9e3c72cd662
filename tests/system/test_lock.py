"""One living process holds a folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qat.system.errors import UserError
from qat.system.lock import LOCK_FILE, holder_of, release, try_hold, using
from tests.conftest import ROOT

HOLD = """
import os, sys, time
from pathlib import Path
from qat.system.lock import try_hold
print(try_hold(Path(sys.argv[1])), flush=True)
"""
FORK = """
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def held_by_nobody() -> Iterator[None]:
    yield
    release()


def other(folder: Path, then: str = "") -> subprocess.Popen[str]:
    """Another process that tries to hold a folder and prints whether it does."""
    command = [sys.executable, "-c", HOLD + then, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_one_process_holds_a_folder_and_names_itself(tmp_path: Path) -> None:
    assert try_hold(tmp_path) and try_hold(tmp_path)
    assert holder_of(tmp_path) == f"process {os.getpid()}"
    with other(tmp_path) as process:
        assert answer(process) == "False"
    release(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with other(tmp_path) as process:
        assert answer(process) == "True"
    assert list(tmp_path.iterdir()) == []  # at its end


def test_a_killed_process_holds_nothing_though_its_child_lives(tmp_path: Path) -> None:
    with other(tmp_path, FORK) as process:
        assert answer(process) == "True"
        child = int(answer(process))
        assert not try_hold(tmp_path)
        process.kill()
        process.wait()
        assert (tmp_path / LOCK_FILE).is_file() and try_hold(tmp_path)
        os.kill(child, 9)


def test_a_folder_that_was_removed_and_made_again_is_held_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):
        folder.mkdir()
        assert try_hold(folder) and (folder / LOCK_FILE).is_file()
        (folder / LOCK_FILE).unlink()
        folder.rmdir()
    release(folder)


def test_a_folder_that_is_missing_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        try_hold(tmp_path / "nowhere")
    assert holder_of(tmp_path / "nowhere") == "another process"


def test_a_command_that_writes_into_a_folder_holds_it(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    with using(folder, "report"), other(folder) as process:
        assert answer(process) == "False"
    with other(folder, "sys.stdin.readline()") as process:
        assert answer(process) == "True"
        with pytest.raises(UserError, match=f"report: {folder} is in use by process {process.pid} on"):
            using(folder, "report").__enter__()
        process.communicate("\n")
    with using(folder, "report"):
        pass


def test_a_command_removes_what_a_killed_one_has_half_written(tmp_path: Path) -> None:
    (tmp_path / ".model.onnx.7.part").touch()
    (tmp_path / ".model.7.part").mkdir()
    (tmp_path / "model.ckpt").touch()
    with using(tmp_path, "report"):
        assert sorted(item.name for item in tmp_path.iterdir()) == [LOCK_FILE, "model.ckpt"]


def test_a_command_writes_where_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    with using(tmp_path / "new", "report"):
        assert (tmp_path / "new").is_dir()
    (half := tmp_path / "new" / ".report.json.7.part").touch()  # perhaps of a process that lives
    with using(tmp_path / "new", "report"):
        assert half.is_file()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"report: .*file/new must be writable \(Not a directory\)"):
        using(tmp_path / "file" / "new", "report").__enter__()
