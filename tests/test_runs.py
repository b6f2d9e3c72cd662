"""Run folders: which one a run gets, what it may resume from, and how a user's words find one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from qat.runs import (
    CHECKPOINTS,
    RUN_VARIABLE,
    checkpoint_to_resume,
    choose_run_folder,
    find_checkpoint,
    make_run_folder,
    read_config,
    sha256_of_checkpoint,
    start_of,
)
from qat.system.errors import UserError
from qat.system.files import sha256_file


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN_VARIABLE, "")


def config(run: str | None = None, ckpt_path: str | None = None) -> dict[str, Any]:
    model = {"class_path": "qat.models.CRDNNModule"}
    return {"run": run, "ckpt_path": ckpt_path, "model": model, "qat": {"preset": "off"}}


def run_folder(name: str, *files: str) -> Path:
    """A folder of a run with empty files."""
    folder = CHECKPOINTS / name
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).touch()
    return folder


def test_a_run_is_a_name_below_checkpoints_or_a_path() -> None:
    assert choose_run_folder(config("mine")) == Path("checkpoints/mine")
    assert choose_run_folder(config("some/where")) == Path("some/where")


def test_a_run_without_a_name_is_named_for_model_preset_and_time_and_other_ranks_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = choose_run_folder(config())
    assert chosen.parent == CHECKPOINTS and chosen.name.startswith("crdnn-off-20")
    monkeypatch.setattr("qat.runs.launched_rank", lambda: 1)
    assert os.environ[RUN_VARIABLE] == chosen.name and choose_run_folder(config()) == chosen


def test_a_folder_that_holds_something_is_for_resuming_only() -> None:
    folder = run_folder("mine", "last.ckpt")
    with pytest.raises(
        UserError, match="--run mine: must name a new run, and checkpoints/mine already holds one"
    ):
        choose_run_folder(config("mine"))
    assert choose_run_folder(config("mine", "last")) == folder


def test_a_checkpoint_to_resume_is_last_best_or_a_file() -> None:
    folder = run_folder("mine", "last.ckpt", "other.ckpt")
    assert checkpoint_to_resume(folder, "last") == folder / "last.ckpt"
    assert checkpoint_to_resume(folder, str(folder / "other.ckpt")) == folder / "other.ckpt"
    with pytest.raises(
        UserError, match=r"--ckpt_path best: must be last, .*; checkpoints/mine holds no best\.ckpt"
    ):
        checkpoint_to_resume(folder, "best")
    with pytest.raises(UserError, match=r"--ckpt_path nothing: must be last, best .*; there is no such file"):
        checkpoint_to_resume(folder, "nothing")


def test_half_written_files_of_a_killed_run_are_removed() -> None:
    folder = run_folder("mine", ".last.ckpt.7.part", "last.ckpt")
    make_run_folder(folder)
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]


def test_a_folder_that_cannot_be_made_is_one_line() -> None:
    Path("file").touch()
    with pytest.raises(UserError, match=r"--run: file/run must be writable \(Not a directory\)"):
        make_run_folder(Path("file/run"))


def test_a_model_is_found_by_run_name_folder_or_file() -> None:
    folder = run_folder("mine", "model.ckpt", "best.ckpt")
    for target, found in (
        ("mine", "model.ckpt"),
        (str(folder), "model.ckpt"),
        (f"{folder}/best.ckpt", "best.ckpt"),
    ):
        assert find_checkpoint(target) == folder / found


def test_of_a_mistyped_run_the_nearest_is_named() -> None:
    run_folder("crdnn-stochastic")
    with pytest.raises(UserError) as caught:
        find_checkpoint("crdn-stocastic")
    assert str(caught.value) == (
        "'crdn-stocastic': must be a checkpoint file or one of the runs here, crdnn-stochastic; "
        "did you mean 'crdnn-stochastic'?"
    )
    with pytest.raises(UserError, match=r"checkpoints/crdnn-stochastic: must hold model\.ckpt"):
        find_checkpoint("crdnn-stochastic")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "must be YAML"), ("- 1", "must be a mapping"), (None, "did you mean 'near.yaml'")],
)
def test_a_configuration_that_cannot_be_read_is_one_line(text: str | None, message: str) -> None:
    Path("near.yaml").write_text("")
    if text is not None:
        Path("neer.yaml").write_text(text)
    with pytest.raises(UserError, match=f"neer.yaml: .*{message}") as caught:
        read_config(Path("neer.yaml"))
    assert "\n" not in str(caught.value)


def test_a_run_starts_from_a_checkpoint_a_pretrained_model_or_nothing() -> None:
    assert start_of({"model": {"init_args": {"init_from": "a.ckpt", "pretrained": None}}}) == "a.ckpt"
    assert start_of({"model": {"init_args": {"pretrained": "some/model"}}}) == "some/model"
    assert start_of({"model": None}) == start_of({}) == ""


def test_a_speechbrain_folder_is_found_by_its_hyper_parameters(tmp_path: Path) -> None:
    (tmp_path / "hyperparams.yaml").touch()
    assert find_checkpoint(str(tmp_path)) == tmp_path / "hyperparams.yaml"
    (tmp_path / "model.ckpt").touch()  # a run goes first
    assert find_checkpoint(str(tmp_path)) == tmp_path / "model.ckpt"


def test_a_configuration_may_start_from_a_speechbrain_folder() -> None:
    assert start_of({"model": {"init_args": {"speechbrain": "folder", "init_from": None}}}) == "folder"
    assert start_of({"model": {"init_args": {"speechbrain": "folder", "init_from": "a.ckpt"}}}) == "a.ckpt"


def test_a_folder_of_speechbrain_is_told_by_its_parameters_and_not_by_what_we_put_beside_them(
    tmp_path: Path,
) -> None:
    settings, parameters = tmp_path / "hyperparams.yaml", tmp_path / "asr.ckpt"
    settings.write_text("a: 1")
    parameters.write_text("weights")
    first = sha256_of_checkpoint(settings)
    (tmp_path / "model.onnx").write_text("exported")
    (tmp_path / "report-hyperparams").mkdir()
    assert sha256_of_checkpoint(settings) == first
    parameters.write_text("others")
    assert sha256_of_checkpoint(settings) != first
    assert sha256_of_checkpoint(parameters) == sha256_file(parameters)
