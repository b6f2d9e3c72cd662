"""What tests share is made once, and read by all others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.once import made_once, shared_folder


def test_a_folder_is_made_by_the_first_caller_and_read_by_the_next(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made: list[Path] = []

    def make(folder: Path) -> tuple[int, Path]:
        assert not list(folder.iterdir())
        made.append(folder)
        (folder / "file").write_text("kept")
        return 7, folder / "file"

    found = [made_once(tmp_path_factory, "test_once", make) for _ in range(2)]
    assert found[0] == found[1] == (7, shared_folder(tmp_path_factory) / "test_once" / "file")
    assert len(made) == 1 and found[1][1].read_text() == "kept"


def test_what_failed_is_made_again_from_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    def fail(folder: Path) -> int:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        made_once(tmp_path_factory, "test_once_failed", fail)
    assert made_once(tmp_path_factory, "test_once_failed", lambda folder: len(list(folder.iterdir()))) == 0


def test_all_workers_of_a_run_share_one_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    assert shared_folder(tmp_path_factory) == base.parent
    monkeypatch.delenv("PYTEST_XDIST_WORKER")
    assert shared_folder(tmp_path_factory) == base
