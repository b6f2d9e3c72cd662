"""Files that are written whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qat.system.errors import UserError

TORN = re.compile(r"\.(?P<name>.+)\.\d+\.(?P<end>part|old)")
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, or limit on a file's size


def full_disk(error: BaseException | None) -> OSError | None:
    """The full disk in an error's causes: torch reports another error of its own on top; None where there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Say in one line that `path` could not be written, where the disk is full.

    Raises:
        UserError: it is; other errors pass.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = full_disk(error)
        if full is None:
            raise
        safe = "what it held before is whole" if path.exists() else "nothing of it is left"
        raise UserError(
            f"{path}: cannot be written, the disk is full ({full.strerror}); must have room for it; free some and run "
            f"again; {safe}"
        ) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    A reader of `path` sees the old content or all of the new, also after a crash or a power cut. Folders are made.

    Raises:
        UserError: the disk is full.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(path) as part:
    ...     _ = part.write_text("whole")
    >>> path.read_text(), [item.name for item in path.parent.iterdir()]
    ('whole', ['note.txt'])
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path, keeps: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` when the block ends without an error.

    No system call swaps two folders everywhere: for a moment between two renames there is none of that name, never
    half of one.

    Args:
        folder: to write.
        keeps: one that is there by then, as another process has written the same, stays, and may be read meanwhile.

    Raises:
        UserError: the disk is full.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "model"
    >>> for text in ("old", "new"):
    ...     with replacing_folder(folder) as part:
    ...         _ = (part / f"{text}.txt").write_text(text)
    >>> [str(item.relative_to(folder.parent)) for item in folder.parent.rglob("*")]
    ['model', 'model/new.txt']
    """
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with naming_full_disk(folder):
            part.mkdir(parents=True)
            yield part
            for path in part.rglob("*"):
                if path.is_file():
                    with path.open("rb+") as file:
                        os.fsync(file.fileno())
            put_in_place(part, folder, old, keeps)
    finally:
        if old.exists() and not folder.exists():
            old.replace(folder)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def put_in_place(part: Path, folder: Path, old: Path, keeps: bool) -> None:
    """Give a filled folder its name, whatever other processes put there meanwhile.

    Args:
        part: the filled folder.
        folder: its name.
        old: where one that is there is put aside.
        keeps: one that is there stays.

    Raises:
        OSError: it cannot be renamed.
    """
    while not (keeps and folder.exists()):
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):  # there was none, or another process has put it aside
            folder.replace(old)
        try:
            part.replace(folder)
            return
        except OSError as error:
            if error.errno not in TAKEN:
                raise


def remove_torn(folder: Path) -> None:
    """Remove what killed processes have left half written in a folder that no other process writes into.

    Where one died between the two renames of `replacing_folder`, the old folder is put back. Other names than
    `.NAME.PROCESS.part` and `.NAME.PROCESS.old` stay.

    Raises:
        OSError: it cannot be removed.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in (".note.txt.7.part", ".model.7.old", ".profile.old", ".song.part"):
    ...     (folder / name).mkdir()
    >>> remove_torn(folder)
    >>> sorted(item.name for item in folder.iterdir())
    ['.profile.old', '.song.part', 'model']
    """
    for left in list(folder.iterdir()):
        found = TORN.fullmatch(left.name)
        if found is None:
            continue
        place = folder / found["name"]
        if found["end"] == "old" and not place.exists():
            left.replace(place)
        elif left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all (`replacing`)."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256_file(path: Path | str) -> str:
    """Hex digest of a file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_path(path: Path | str) -> str:
    """Hex digest of a file's bytes, or of the names and bytes of a folder's files.

    Raises:
        OSError: a file cannot be read.
    """
    path = Path(path)
    return sha256_folder(path) if path.is_dir() else sha256_file(path)


def sha256_folder(folder: Path, pattern: str = "*") -> str:
    """Hex digest of the names and bytes of the files below a folder that fit a pattern."""
    digest = hashlib.sha256()
    for path in sorted(item for item in folder.rglob(pattern) if item.is_file()):
        digest.update(f"{path.relative_to(folder)} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
