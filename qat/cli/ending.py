"""How a command ends: mistakes, full disks, killed processes and Ctrl-C are one line, whatever library found them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from qat.system.errors import UserError
from qat.system.files import full_disk

ROOT = Path(__file__).resolve().parents[2]
OURS = (ROOT / "qat", ROOT / "datamodules")
INTERRUPTED = 130  # as a shell gives it: 128 + SIGINT
LONGEST = 300  # characters of a library's reason
RESUME = "checkpoints stay; resume with --run NAME --ckpt_path last"


def run_command(command: Callable[[list[str]], None], args: list[str]) -> None:
    """Run a command line; where a user can do something about an error, print one line and exit.

    Raises:
        SystemExit: status 2 after a mistake, 130 after Ctrl-C.
    """
    try:
        command(args)
    except KeyboardInterrupt as error:
        print(str(error) or "stopped by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        line = plain_line(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


def plain_line(error: BaseException) -> str | None:
    """What to tell a user of an error in one line; None where only a traceback helps."""
    if isinstance(error, UserError):
        return str(error)
    if full := full_disk(error):
        where = full.filename or "a file"
        return f"{where}: the disk is full ({full.strerror}); must have room for it; free some; {RESUME}"
    text = str(error).strip()
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return (
            f"{first_sentence(text)}: it loads audio, and must live as long as the run; if memory ran out, lower "
            f"--data.num_workers or --data.max_batch_s; {RESUME}"
        )
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "can't allocate" in text:
        return f"memory is full ({shortened(text)}); must hold a batch; lower --data.max_batch_s; {RESUME}"
    if type(error).__name__ == "MisconfigurationException" or (
        isinstance(error, ValueError | TypeError) and "lightning" in innermost_file(error).parts
    ):
        return f"trainer: {shortened(text)}; correct the --trainer option that it speaks of"
    return None


def library_error(error: Exception) -> UserError | None:
    """A library's complaint about options, while something is built of them; None where our own code failed."""
    if any(innermost_file(error).is_relative_to(folder) for folder in OURS):
        return None
    known = plain_line(error)
    reason = f"{type(error).__name__}: {shortened(str(error))}"
    return UserError(
        known or f"the options do not fit together ({reason}); correct the one that it speaks of"
    )


def innermost_file(error: BaseException) -> Path:
    """The source file in which an error was raised first.

    >>> try:
    ...     Path(3)
    ... except TypeError as error:
    ...     innermost_file(error).name
    'pathlib.py'
    """
    files = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return files[-1] if files else Path()


def first_sentence(text: str) -> str:
    """A library's message up to its first full stop."""
    return shortened(text).partition(". ")[0].rstrip(".")


def shortened(text: str) -> str:
    """A message as one line of `LONGEST` characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
