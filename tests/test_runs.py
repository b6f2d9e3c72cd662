"""Run folders: which one a run gets, what it may resume from, and how a user's words find one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from qat.runs import (
    CHECKPOINTS,
    RUN_VARIABLE,
    checkpoint_to_resume,
    choose_run_folder,
    find_checkpoint,
    holds_run,
    make_run_folder,
    read_config,
    refuse_used_folder,
    sha256_of_checkpoint,
    start_of,
)
from qat.system.errors import UserError
from qat.system.files import sha256_file
from qat.system.lock import release, try_hold
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN_VARIABLE, "")
    yield
    release()


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
    make_run_folder(folder, resumes=True)
    release()
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]


def start_at_once(count: int, folder: Path, named: bool) -> list[str]:
    """What processes print that start runs in one folder at the same time and live until all have answered."""
    code = (
        "import sys; from pathlib import Path; from qat.runs import make_run_folder; sys.stdin.readline()\n"
        f"try: print(make_run_folder(Path({str(folder)!r}), named={named}), flush=True)\n"
        "except Exception as error: print('error:', error, flush=True)\n"
        "sys.stdin.readline()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    started = [subprocess.Popen(command, env=environment, text=True, **pipes) for _ in range(count)]
    for process in started:
        print("go", file=process.stdin, flush=True)
    found = [process.stdout.readline().strip() for process in started if process.stdout]
    for process in started:
        process.communicate("\n")
    return sorted(found)


def test_of_runs_that_start_at_once_in_one_folder_one_gets_it_and_the_others_one_line() -> None:
    started_folder("left")  # by a start that failed
    for name in ("new", "left"):
        found = start_at_once(3, CHECKPOINTS / name, named=True)
        refused = [line for line in found if line.startswith("error: ")]
        assert f"checkpoints/{name}" in found[-1] and len(refused) == 2
        for line in refused:
            assert f"--run {name}: must be no other process's, and checkpoints/{name} is in use by " in line


def test_of_runs_that_start_at_once_without_a_name_each_gets_a_folder() -> None:
    assert start_at_once(3, CHECKPOINTS / "crdnn-off", named=False) == [
        "checkpoints/crdnn-off",
        "checkpoints/crdnn-off-2",
        "checkpoints/crdnn-off-3",
    ]


def test_the_other_ranks_share_the_name_that_got_a_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder("crdnn-off", "last.ckpt")
    made = make_run_folder(CHECKPOINTS / "crdnn-off", named=False)
    monkeypatch.setattr("qat.runs.launched_rank", lambda: 1)
    assert made.name == "crdnn-off-2" and choose_run_folder(config()) == made
    assert make_run_folder(made) == made and not (CHECKPOINTS / "crdnn-off-3").exists()


def started_folder(name: str, *files: str, **trainer: Any) -> Path:
    """What a start that failed leaves."""
    folder = run_folder(name, "metrics.csv", "wandb_id", *files)
    options = {"run": name, "ckpt_path": None, "save_every_steps": None, "trainer": trainer}
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    return folder


def test_a_folder_without_a_checkpoint_is_taken_over(capsys: pytest.CaptureFixture[str]) -> None:
    folder = started_folder("mine", ".last.ckpt.7.part")
    refuse_used_folder("mine", resumes=False)
    assert make_run_folder(folder) == folder
    release()
    assert list(folder.iterdir()) == []
    assert "checkpoints/mine: holds no checkpoint; this run takes it over" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["last.ckpt", "ptq.ckpt", "report.json", "notes.txt"])
def test_a_folder_with_anything_of_worth_is_not_taken_over(file: str) -> None:
    folder = started_folder("mine", file)
    for refuse in (lambda: refuse_used_folder("mine", resumes=False), lambda: make_run_folder(folder)):
        with pytest.raises(UserError, match="--run mine: must name a new run, and .* already holds one"):
            refuse()
    assert (folder / "metrics.csv").is_file() and (folder / file).is_file()


def test_metrics_of_a_run_that_keeps_no_checkpoints_are_not_taken_over() -> None:
    assert holds_run(started_folder("mine", enable_checkpointing=False))
    assert not holds_run(started_folder("other", enable_checkpointing=True))


@pytest.mark.parametrize("text", ["model: {}", "a: ["])
def test_a_configuration_that_no_run_has_written_is_not_taken_over(text: str) -> None:
    folder = run_folder("mine")
    (folder / "config.yaml").write_text(text)
    assert holds_run(folder)


def test_a_run_that_is_going_on_is_not_resumed_by_another_process() -> None:
    folder = run_folder("mine", "last.ckpt")
    assert try_hold(folder)
    code = f"from qat.runs import make_run_folder, Path; make_run_folder(Path({str(folder)!r}), resumes=True)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"checkpoints/mine is in use by process {os.getpid()} on" in run.stderr
    release()
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_where_the_file_system_has_no_locks_a_new_folder_is_made_and_none_taken_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_locks(folder: Path) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("qat.runs.try_hold", no_locks)
    assert make_run_folder(CHECKPOINTS / "new").is_dir()
    with pytest.raises(UserError, match="--run: .*mine must be writable"):
        make_run_folder(started_folder("mine"))


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


def test_a_hugging_face_folder_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        UserError, match="a Hugging Face folder, must be a run or a checkpoint; make one with"
    ):
        find_checkpoint(str(tmp_path))


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
