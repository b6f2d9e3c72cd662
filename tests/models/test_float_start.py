"""The float start of a run is that very model, wherever the report is made, or none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qat.models.float_start import find_start, keep_start, kept_start
from qat.runs import sha256_of_checkpoint
from qat.system.errors import UserError
from tests.conftest import ROOT, write_hugging_face

NAME = "starts/small/model.ckpt"


def naming(name: str) -> dict[str, Any]:
    """A configuration that starts from a model of that name."""
    return {"model": {"init_args": {"init_from": name}}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that began in `project` from a model with a relative path; the working folder is another one now."""
    start = tmp_path / "project" / NAME
    start.parent.mkdir(parents=True)
    start.write_bytes(b"float weights")
    folder = tmp_path / "project" / "checkpoints" / "run"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    keep_start(naming(NAME), folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def put(path: Path, content: bytes = b"float weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_run_keeps_name_path_and_hash_of_its_start(run: Path) -> None:
    kept = kept_start(run)
    assert kept is not None and kept.name == NAME
    start = run.parents[1] / NAME
    assert (kept.path, kept.sha256) == (str(start), sha256_of_checkpoint(start))


def test_the_start_is_found_from_every_working_folder(run: Path) -> None:
    start = run.parents[1] / NAME
    assert find_start(run / "model.ckpt", naming(NAME)) == start
    (run / "start.json").unlink()  # an older run: by its path
    assert find_start(run / "model.ckpt", naming(NAME)) == start


def test_the_start_is_found_in_the_working_folder_and_beside_a_run_that_has_moved(
    run: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "other" / "run"
    shutil.move(run, moved)
    shutil.rmtree(tmp_path / "project")
    beside = put(tmp_path / "other" / "small" / "model.ckpt")
    assert find_start(moved / "model.ckpt", {}) == beside
    beside.unlink()
    here = put(tmp_path / "elsewhere" / NAME)
    found = find_start(moved / "model.ckpt", {})
    assert found is not None and found.resolve() == here


def test_the_start_of_a_shipped_model_is_found_in_the_project(tmp_path: Path) -> None:
    name = "checkpoints/mini_crdnn/model.ckpt"
    found = find_start(tmp_path / "model.ckpt", naming(name))
    assert found is not None and found.resolve() == (ROOT / name).resolve()


def test_other_weights_under_the_name_of_the_start_are_passed_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "elsewhere" / NAME, b"other weights")
    assert find_start(run / "model.ckpt", naming(NAME)) == run.parents[1] / NAME
    put(run.parents[1] / NAME, b"trained since")
    assert find_start(run / "model.ckpt", naming(NAME)) is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"its float start {NAME} is gone (only other weights than" in said


def test_a_start_that_is_nowhere_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parents[1] / NAME).unlink()
    assert find_start(run / "model.ckpt", naming(NAME)) is None
    assert f"its float start {NAME} is gone (not found)" in capsys.readouterr().err


def test_a_run_from_random_weights_has_no_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_start({}, tmp_path)
    assert kept_start(tmp_path) is None and find_start(tmp_path / "model.ckpt", {}) is None
    assert capsys.readouterr().err == ""


def test_a_resumed_run_keeps_what_it_began_with(run: Path, tmp_path: Path) -> None:
    before = (run / "start.json").read_text()
    put(run.parents[1] / NAME, b"trained since")
    keep_start(naming(NAME), run, resumed=str(run / "last.ckpt"))
    assert (run / "start.json").read_text() == before
    keep_start(naming(NAME), tmp_path / "elsewhere", resumed=str(run / "last.ckpt"))
    assert (tmp_path / "elsewhere" / "start.json").read_text() == before


@pytest.mark.parametrize("text", ["{", "[]", '{"path": "x"}'])
def test_a_damaged_note_of_the_start_is_one_line(run: Path, text: str) -> None:
    (run / "start.json").write_text(text)
    with pytest.raises(UserError, match=r"start\.json: must hold name, path and sha256"):
        find_start(run / "model.ckpt", {})


def test_a_pretrained_folder_is_known_by_its_weights_and_configuration(tmp_path: Path) -> None:
    write_hugging_face(tmp_path / "hub")
    before = sha256_of_checkpoint(tmp_path / "hub")
    (tmp_path / "hub" / "README.md").write_text("fetched later")
    assert sha256_of_checkpoint(tmp_path / "hub") == before
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    (tmp_path / "hub" / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    assert sha256_of_checkpoint(tmp_path / "hub") != before
