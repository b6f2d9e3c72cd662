"""Folders that one process uses at a time, in a way that ends with the process, however that ends."""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from qat.system.errors import UserError
from qat.system.files import remove_torn

LOCK_FILE = ".lock"
WAIT_S = 1.0  # between two looks whether a folder is free
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # of some file systems

_held: dict[Path, tuple[int, IO[str]]] = {}  # lock file -> process that took it, open file


def try_hold(folder: Path) -> bool:
    """Hold a folder for this process until `release`, or its end; False where another living process holds it.

    The lock is POSIX's: children of the process do not hold it, so that none can keep it after a kill.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks (`errno` in `NO_LOCKS`).
    """
    path = folder.resolve() / LOCK_FILE
    pid, known = _held.get(path, (0, None))
    if known is not None and pid == os.getpid() and is_at(known, path):
        return True
    while True:
        file = path.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        if is_at(file, path):
            break
        file.close()  # its holder has removed it meanwhile
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    _held[path] = (os.getpid(), file)
    return True


def is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one that now lies at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def holder_of(folder: Path) -> str:
    """Who holds a folder, in words."""
    path = folder.resolve() / LOCK_FILE
    if path in _held:  # a process that closes any file of a POSIX lock loses it
        return f"process {_held[path][0]}"
    try:
        return path.read_text().strip() or "another process"
    except OSError:
        return "another process"


def release(folder: Path | None = None) -> None:
    """Let go of a folder that this process holds, or of all."""
    for path in list(_held) if folder is None else [folder.resolve() / LOCK_FILE]:
        pid, file = _held.pop(path, (0, None))
        if file is None:
            continue
        if pid == os.getpid() and is_at(file, path):
            path.unlink(missing_ok=True)
        file.close()


@contextmanager
def using(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder, which is made, while a command writes into it; where the file system has no locks, only make it.

    What a killed process has left half written in it is removed first.

    Raises:
        UserError: it cannot be written, or another process uses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = try_hold(folder)
        if held:
            remove_torn(folder)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"{what}: {folder} must be writable ({error.strerror})") from None
        held = True
    if not held:
        raise UserError(
            f"{what}: {folder} is in use by {holder_of(folder)}; must be used by one; wait for its end"
        )
    try:
        yield
    finally:
        release(folder)


@contextmanager
def waiting_for(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder, which is made, and wait where another living process holds it; without locks, only make it.

    Raises:
        OSError: it cannot be written.
    """
    said = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if try_hold(folder):
                break
        except FileNotFoundError:  # its holder has removed it meanwhile
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            break
        if not said:
            print(f"{what}: waiting for {holder_of(folder)}, which uses {folder}", flush=True)
            said = True
        time.sleep(WAIT_S)
    try:
        yield
    finally:
        release(folder)


atexit.register(release)
