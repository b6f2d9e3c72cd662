"""How a command ends: one line and an exit status, whatever library found the trouble."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from qat.cli.ending import library_error, plain_line, run_command, shortened
from qat.system.errors import UserError


def raising(error: BaseException) -> Callable[[list[str]], None]:
    def command(args: list[str]) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a: 1, must be 2"), "error: a: 1, must be 2"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.csv"), "error: x.csv: the disk is full"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. Details are lost."),
            "error: DataLoader worker (pid 7) is killed by signal: Killed: it loads audio",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
            "error: DataLoader worker (pid(s) 7, 8) exited unexpectedly: it loads audio",
        ),
        (MemoryError("12 GiB"), "error: memory is full (12 GiB)"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"),
            "error: memory is full (Default",
        ),
        (MisconfigurationException("No gpu\nbackend"), "error: trainer: No gpu backend"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(raising(error), [])
    written = capsys.readouterr().err
    assert ended.value.code == 2 and written.startswith(line) and len(written.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "line"), [((), "stopped by Ctrl-C\n"), (("suite: stopped",), "suite: stopped\n")]
)
def test_ctrl_c_ends_with_130(words: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(raising(KeyboardInterrupt(*words)), [])
    assert ended.value.code == 130 and capsys.readouterr().err == line


def test_a_fault_of_our_own_keeps_its_traceback() -> None:
    with pytest.raises(KeyError):
        run_command(raising(KeyError("x")), [])
    with pytest.raises(AttributeError) as caught:
        shortened(3)  # type: ignore[arg-type]
    assert library_error(caught.value) is None is plain_line(caught.value)


def test_lightnings_complaints_are_one_line() -> None:
    with pytest.raises((ValueError, TypeError, MisconfigurationException)) as caught:
        Trainer(strategy="frob", accelerator="cpu", logger=False)
    assert (plain_line(caught.value) or "").startswith("trainer: You selected an invalid strategy name")
    found = library_error(caught.value)
    assert found is not None and "frob" in str(found)
