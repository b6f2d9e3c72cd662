"""Files are written whole or not at all, and hashed by what lies in them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from qat.system.errors import UserError
from qat.system.files import (
    remove_torn,
    replacing,
    replacing_folder,
    sha256_file,
    sha256_folder,
    sha256_path,
    write_text,
)


def test_file_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_a_folder_is_hashed_by_names_and_bytes(tmp_path: Path) -> None:
    hashes = set()
    for name, content in (("a", "x"), ("a", "y"), ("b", "y")):
        shutil.rmtree(tmp_path / "f", ignore_errors=True)
        (tmp_path / "f" / "in").mkdir(parents=True)
        (tmp_path / "f" / "in" / name).write_text(content)
        hashes.add(sha256_path(tmp_path / "f"))
    assert len(hashes) == 3


def test_a_folder_may_be_hashed_by_some_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x")
    before = sha256_folder(tmp_path, "*.py")
    (tmp_path / "b.txt").write_text("y")
    assert sha256_folder(tmp_path, "*.py") == before != sha256_folder(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sub" / "x.json"
    write_text(path, "old")

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_text(path, "old")
    with pytest.raises(KeyError), replacing(path) as part:
        part.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with replacing_folder(folder) as part:
        (part / "a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing_folder(folder) as part:
        (part / "b.txt").write_text("new")
        _ = 1 / 0
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    assert [item.name for item in folder.iterdir()] == ["a.txt"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, replace = tmp_path / "model", Path.replace
    folder.mkdir()

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".part"):
            raise OSError("full")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="full"), replacing_folder(folder):
        pass
    assert [item.name for item in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(("keeps", "left"), [(False, "mine"), (True, "theirs")])
def test_a_folder_that_another_process_writes_meanwhile_is_replaced_or_kept_whole(
    tmp_path: Path, keeps: bool, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, replace, taken = tmp_path / "model", Path.replace, []

    def late(path: Path, target: Path) -> Path:
        if path.name.endswith(".part") and not taken:  # between the look and the rename
            taken.append(target)
            folder.mkdir()
            (folder / "theirs").touch()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", late)
    with replacing_folder(folder, keeps) as part:
        (part / "mine").touch()
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    assert [item.name for item in folder.iterdir()] == [left]


def test_a_kill_between_two_renames_of_a_folder_costs_nothing(tmp_path: Path) -> None:
    for name in (".model.7.old", ".model.7.part", ".ptq.7.old", "ptq", ".last.ckpt.8.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of {name}").touch()
    remove_torn(tmp_path)
    left = sorted(str(item.relative_to(tmp_path)) for item in tmp_path.rglob("*"))
    assert left == ["model", "model/of .model.7.old", "ptq", "ptq/of ptq"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
@pytest.mark.parametrize("on_top", [False, True])
def test_a_full_disk_is_one_line_that_names_the_file_and_what_is_safe(
    number: int, on_top: bool, tmp_path: Path
) -> None:
    def write(part: Path) -> None:
        part.write_text("half")
        try:
            raise OSError(number, os.strerror(number))
        except OSError:
            if on_top:
                raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 - as torch does
            raise

    path = tmp_path / "sub" / "x"
    with (
        pytest.raises(UserError, match=r"sub/x: cannot be written, the disk is full .*nothing of it is left"),
        replacing(path) as part,
    ):
        write(part)
    write_text(path, "old")
    room = "must have room for it; .*what it held before is whole"
    with pytest.raises(UserError, match=room) as caught, replacing(path) as part:
        write(part)
    assert path.read_text() == "old" and "\n" not in str(caught.value)
    with (
        pytest.raises(UserError, match="sub: cannot be written.*is whole"),
        replacing_folder(tmp_path / "sub") as folder,
    ):
        write(folder / "y")
    assert [item.name for item in (tmp_path / "sub").iterdir()] == ["x"]
