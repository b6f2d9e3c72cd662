"""`make quick`: which tests run for which changed files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import changed
from tests.changed import changed_files, mirror, select


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A committed source file of two, each with its test, and a page."""
    for name in (
        "qat/layers/linear.py",
        "qat/layers/conv.py",
        "tests/layers/test_linear.py",
        "tests/layers/test_conv.py",
        "tests/test_readme.py",
        "tests/conftest.py",
        "README.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "start")
    return tmp_path


def test_nothing_changed(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(changed, "changed_files", lambda: changed_files(repository))
    assert changed_files(repository) == [] and changed.main() == 0
    assert "nothing has changed" in capsys.readouterr().out


def test_a_changed_source_file_runs_its_test_and_its_doctests(repository: Path) -> None:
    (repository / "qat/layers/linear.py").write_text("x = 1\n")
    assert changed_files(repository) == ["qat/layers/linear.py"]
    assert select(changed_files(repository), repository) == (
        ["qat/layers/linear.py", "tests/layers/test_linear.py"],
        [],
    )


def test_a_deleted_source_file_still_runs_its_test(repository: Path) -> None:
    (repository / "qat/layers/linear.py").unlink()
    assert select(changed_files(repository), repository) == (["tests/layers/test_linear.py"], [])


def test_an_untracked_file_counts_and_one_without_a_test_is_named(repository: Path) -> None:
    (repository / "qat/layers/gru.py").write_text("")
    assert select(changed_files(repository), repository) == (["qat/layers/gru.py"], ["qat/layers/gru.py"])


def test_a_test_file_runs_itself_and_a_page_runs_the_test_of_the_pages(repository: Path) -> None:
    for name in ("tests/layers/test_conv.py", "tests/conftest.py", "README.md"):
        (repository / name).write_text("# changed\n")
    assert select(changed_files(repository), repository) == (
        ["tests/layers/test_conv.py", "tests/test_readme.py"],
        [],
    )


@pytest.mark.parametrize("path", ["qat/layers/linear.py", "datamodules/text.py", "train.py"])
def test_a_mirror_mirrors_itself(path: str) -> None:
    assert mirror(mirror(path)) == mirror(path)
