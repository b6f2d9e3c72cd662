"""A run that is killed at any moment and resumed ends with the bits of one that was not."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer

from qat.methods import calibrate
from qat.models.checkpoint import write_checkpoint
from qat.system.errors import UserError
from tests.processes import finish, start
from tests.test_invariants import assert_equal
from train import train

MOMENTS = 3  # of each setting, besides the first step and the last one; tests/soak.py kills at any number
EQUAL = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")


class Signal(Callback):
    """Sends a signal to its own process at the start of an optimiser step.

    Args:
        step: steps made before.
        number: SIGKILL, SIGTERM, ...
        rank: of the process.
    """

    def __init__(self, step: int, number: int, rank: int = 0) -> None:
        self.step, self.number, self.rank = step, number, rank

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), self.number)


class AtSave(Callback):
    """Makes the checkpoint of a step deadly.

    Args:
        step: of the checkpoint.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step - 1:
            self.arm(trainer)

    def arm(self, trainer: Trainer) -> None:
        raise NotImplementedError


class KillInSave(AtSave):
    """Dies while a checkpoint is being written: half of its bytes are on disk."""

    def arm(self, trainer: Trainer) -> None:
        save = torch.save

        def half(content: Any, file: Any) -> None:
            whole = io.BytesIO()
            save(content, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = half


class KillAfterSave(AtSave):
    """Dies when a checkpoint is whole on disk, and the row of its step not yet in the log."""

    def arm(self, trainer: Trainer) -> None:
        save = trainer.save_checkpoint

        def save_and_die(*args: Any, **kwargs: Any) -> None:
            save(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        trainer.save_checkpoint = save_and_die  # type: ignore[method-assign]


class KillInCalibration(Callback):
    """Dies when all utterances are counted and no range is set yet."""

    def setup(self, *_: Any, **__: Any) -> None:
        calibrate.finish_calibration_ = lambda module: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]


@pytest.fixture
def kind() -> str:
    return "crdnn"


@pytest.fixture
def config(tiny: Path) -> Path:
    """Two epochs of about six steps with masks and dropout, checkpoints every second step."""
    content = yaml.safe_load(tiny.read_text())
    content["model"]["init_args"] |= {"learning_rate": 0.01, "dropout": 0.2, "time_masks": 1}
    content["data"]["init_args"] |= {"max_batch_s": 2.5, "augment": True}
    content["trainer"] |= {"max_epochs": 2, "num_sanity_val_steps": 0, "enable_progress_bar": False}
    content |= {"evaluation": {"enabled": False}, "wandb": {"enabled": False}, "save_every_steps": 2}
    tiny.write_text(yaml.safe_dump(content))
    return tiny


@pytest.fixture(scope="module")
def uncut_runs() -> dict[tuple[Any, ...], Path]:
    """Folders of runs that nobody interrupts, by what they run."""
    return {}


@pytest.fixture
def uncut(
    config: Path, uncut_runs: dict[tuple[Any, ...], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Gives the folder of a run of `config` that nobody interrupts, run once for all tests of this file."""

    def run(preset: str, *more: str, processes: int = 1) -> Path:
        known = (preset, more, processes)
        if known not in uncut_runs:
            place = tmp_path_factory.mktemp("uncut")
            command = flags(config, place / "whole", "--qat", preset, *more)
            statuses = finish(start(command, place / "log", processes))
            assert statuses == [0] * processes, (place / "log").read_text()[-3000:]
            uncut_runs[known] = place / "whole"
        return uncut_runs[known]

    return run


def flags(config: Path, folder: Path, *more: str) -> list[str]:
    return ["--config", str(config), "--run", str(folder), *more]


def with_signal(config: Path, step: int, number: int, rank: int = 0) -> Path:
    """The configuration with a signal in it."""
    return with_callback(config, Signal, step=step, number=int(number), rank=rank)


def with_callback(config: Path, callback: type[Callback], **arguments: int) -> Path:
    """The configuration with a callback in it."""
    content = yaml.safe_load(config.read_text())
    content["trainer"]["callbacks"] = [
        {"class_path": f"{__name__}.{callback.__name__}", "init_args": arguments}
    ]
    path = config.with_name("-".join([callback.__name__, *map(str, arguments.values())]) + ".yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.ckpt", weights_only=True)


def assert_same_end(folder: Path, whole: Path, where: str) -> None:
    """Weights, scales, observers, optimiser and log."""
    for key in EQUAL:
        assert_equal(last(folder)[key], last(whole)[key], f"{where}: {key}")
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text(), where


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("preset", ["deterministic", "stochastic"])
def test_killed_at_random_steps(
    config: Path, tmp_path: Path, uncut: Callable[..., Path], preset: str, processes: int
) -> None:
    log, whole = tmp_path / "log", uncut(preset, processes=processes)
    steps = last(whole)["global_step"]
    assert steps >= 6
    inside = random.Random(f"{preset}{processes}").sample(range(1, steps - 1), MOMENTS)
    for step in (0, *sorted(inside), steps - 1):
        folder = tmp_path / f"at{step}"
        killed = with_signal(config, step, signal.SIGKILL, rank=step % processes)
        assert -signal.SIGKILL in finish(start(flags(killed, folder, "--qat", preset), log, processes))
        again = flags(config, folder, "--qat", preset, "--ckpt_path", "last")
        assert finish(start(again, log, processes)) == [0] * processes, log.read_text()[-3000:]
        assert_same_end(folder, whole, f"killed at step {step} of {steps}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_saves_and_exits(
    config: Path, tmp_path: Path, uncut: Callable[..., Path], number: int, processes: int
) -> None:
    log, whole = tmp_path / "log", uncut("stochastic", processes=processes)
    folder = tmp_path / "stopped"
    stopped = with_signal(config, 2, number, rank=processes - 1)  # one rank gets it, all stop
    statuses = finish(start(flags(stopped, folder, "--qat", "stochastic"), log, processes))
    assert statuses == [128 + number] * processes
    assert last(folder)["global_step"] == 3  # the current step has ended
    assert "after step 3; resume with --run stopped --ckpt_path last" in log.read_text()
    again = flags(config, folder, "--qat", "stochastic", "--ckpt_path", "last")
    assert finish(start(again, log, processes)) == [0] * processes, log.read_text()[-3000:]
    assert_same_end(folder, whole, "signal")


@pytest.mark.slow
def test_a_signal_in_the_last_step_of_an_epoch_is_obeyed_after_its_checkpoint(
    config: Path, tmp_path: Path, uncut: Callable[..., Path]
) -> None:
    log, whole = tmp_path / "log", uncut("off")
    half = last(whole)["global_step"] // 2
    folder = tmp_path / "stopped"
    stopped = with_signal(config, half - 1, signal.SIGTERM)
    assert finish(start(flags(stopped, folder, "--qat", "off"), log)) == [143]
    assert last(folder)["global_step"] == half
    assert finish(start(flags(config, folder, "--qat", "off", "--ckpt_path", "last"), log)) == [0]
    assert_same_end(folder, whole, "end of epoch")


@pytest.mark.slow
def test_killed_while_it_calibrates(config: Path, tmp_path: Path, uncut: Callable[..., Path]) -> None:
    """Before the first step a run has a checkpoint already."""
    more = ["--qat.calibration_utterances", "12"]
    log, whole, folder = tmp_path / "log", uncut("stochastic", *more), tmp_path / "cut"
    slow = flags(config, folder, "--qat", "stochastic", *more)
    process = start(slow, log)
    while not (folder / "last.ckpt").is_file() and process[0].is_alive():
        time.sleep(0.002)
    process[0].kill()
    assert finish(process) == [-signal.SIGKILL]
    assert finish(start([*slow, "--ckpt_path", "last"], log)) == [0], log.read_text()[-3000:]
    assert_same_end(folder, whole, "calibration")


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(
    config: Path, tmp_path: Path, uncut: Callable[..., Path]
) -> None:
    log, whole, folder = tmp_path / "log", uncut("stochastic"), tmp_path / "cut"
    deadly = with_callback(config, KillInSave, step=4)
    assert finish(start(flags(deadly, folder, "--qat", "stochastic"), log)) == [-signal.SIGKILL]
    assert last(folder)["global_step"] == 2 and list(folder.glob(".last.ckpt.*.part"))
    again = flags(config, folder, "--qat", "stochastic", "--ckpt_path", "last")
    assert finish(start(again, log)) == [0], log.read_text()[-3000:]
    assert_same_end(folder, whole, "in a save")
    assert not list(folder.glob(".*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["inside an epoch", "at an epoch's end"])
def test_killed_between_a_checkpoint_and_the_log(
    config: Path, tmp_path: Path, uncut: Callable[..., Path], place: str
) -> None:
    """The checkpoint brings the rows of the log, whatever became of the file."""
    log, whole, folder = tmp_path / "log", uncut("deterministic"), tmp_path / "cut"
    step = 4 if place == "inside an epoch" else last(whole)["global_step"] // 2
    deadly = with_callback(config, KillAfterSave, step=step)
    assert finish(start(flags(deadly, folder, "--qat", "deterministic"), log)) == [-signal.SIGKILL]
    written = (folder / "metrics.csv").read_text().splitlines()
    if place == "inside an epoch":
        assert last(folder)["global_step"] == step
        assert (
            last(folder)["logged"][-1]["step"] == step - 1 and len(last(folder)["logged"]) > len(written) - 1
        )
    (folder / "metrics.csv").write_text("\n".join(written[:2]))
    again = flags(config, folder, "--qat", "deterministic", "--ckpt_path", "last")
    assert finish(start(again, log)) == [0], log.read_text()[-3000:]
    assert_same_end(folder, whole, place)


@pytest.mark.slow
def test_a_checkpoint_without_the_log_takes_it_from_the_file(
    config: Path, tmp_path: Path, uncut: Callable[..., Path]
) -> None:
    """As an older version wrote it."""
    log, whole, folder = tmp_path / "log", uncut("deterministic"), tmp_path / "cut"
    killed = with_signal(config, 5, signal.SIGKILL)
    assert finish(start(flags(killed, folder, "--qat", "deterministic"), log)) == [-signal.SIGKILL]
    checkpoint = last(folder)
    del checkpoint["logged"]
    write_checkpoint(checkpoint, folder / "last.ckpt")
    again = flags(config, folder, "--qat", "deterministic", "--ckpt_path", "last")
    assert finish(start(again, log)) == [0], log.read_text()[-3000:]
    assert_same_end(folder, whole, "older")


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint({"step": 1}, path)

    def half(content: Any, file: Any) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["last.ckpt"]


def trained(config: Path, folder: Path) -> Path:
    train(flags(config, folder, "--qat", "deterministic", "--trainer.max_epochs", "1"))
    return folder


@pytest.fixture(scope="module")
def trained_runs() -> list[tuple[Path, Path]]:
    """The run of `trained_once`, if there is one yet."""
    return []


@pytest.fixture
def trained_once(
    config: Path, trained_runs: list[tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Configuration and folder of one epoch, run once for all tests that resume it; it is for reading."""
    if not trained_runs:
        trained_runs.append((config, trained(config, tmp_path_factory.mktemp("trained") / "run")))
    return trained_runs[0]


@pytest.mark.slow
def test_a_torn_last_checkpoint_falls_back_to_the_one_before(
    config: Path,
    trained_once: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, folder = trained_once[1], trained(config, tmp_path / "torn")
    before = torch.load(folder / "before_last.ckpt", weights_only=True)
    assert before["global_step"] < last(folder)["global_step"]
    content = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(content[: len(content) // 2])
    again = flags(
        config, folder, "--qat", "deterministic", "--trainer.max_epochs", "1", "--ckpt_path", "last"
    )
    train(again)
    assert "last.ckpt: not a readable checkpoint" in (said := capsys.readouterr().err)
    assert "resuming from before_last.ckpt" in said
    assert_same_end(folder, whole, "torn")
    for name in ("last.ckpt", "before_last.ckpt"):
        (folder / name).write_bytes(b"torn")
    with pytest.raises(UserError, match=r"before_last\.ckpt: not a readable checkpoint"):
        train(again)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--qat.weight_bits", "4"], "its recipe is weight_bits=8 and must be weight_bits=4 as in this run"),
        (["--model.dropout", "0.3"], "its dropout is 0.2 and must be 0.3 as in this run"),
        (["--data.max_batch_s", "3.5"], "its max_batch_s is 2.5 and must be 3.5 as in this run"),
        (["--data.augment", "false"], "its augment is {"),
        (["--data.max_train_utterances", "5"], "its train is '"),
        (["--seed_everything", "2"], "its seed is 1 and must be 2 as in this run"),
        (
            ["--trainer.accumulate_grad_batches", "2"],
            "its accumulate_grad_batches is 1 and must be 2 as in this run",
        ),
    ],
)
def test_another_recipe_model_or_data_is_named_with_both_values(
    trained_once: tuple[Path, Path], tmp_path: Path, more: list[str], message: str
) -> None:
    config, run = trained_once
    folder = tmp_path / "mine"
    shutil.copytree(run, folder)
    before = (folder / "last.ckpt").read_bytes()
    with pytest.raises(UserError) as caught:
        train(flags(config, folder, "--qat", "deterministic", "--ckpt_path", "last", *more))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert (folder / "last.ckpt").read_bytes() == before


def test_a_run_without_a_checkpoint_is_named(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--ckpt_path last: .*nowhere holds no last\.ckpt"):
        train(flags(config, tmp_path / "nowhere", "--qat", "deterministic", "--ckpt_path", "last"))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_resumes_after_a_kill_in_any_epoch(config: Path, tmp_path: Path, workers: int) -> None:
    content = yaml.safe_load(config.read_text())
    data = content["data"]
    manifest = Path(data["init_args"]["train"])
    rows = [
        {**row, "audio": str(manifest.parent / row["audio"])}
        for row in map(json.loads, manifest.read_text().splitlines())
    ]
    for number in range(3):
        shard = tmp_path / f"part-{number}.jsonl"
        shard.write_text("".join(json.dumps(row) + "\n" for row in rows[number::3]))
    data["class_path"] = "datamodules.StreamDataModule"
    data["init_args"] |= {
        "train": str(tmp_path / "part-*.jsonl"),
        "batches_per_epoch": 5,
        "num_workers": workers,
    }
    config.write_text(yaml.safe_dump(content))
    log, whole = tmp_path / "log", tmp_path / "whole"
    assert finish(start(flags(config, whole, "--qat", "stochastic"), log)) == [0], log.read_text()[-3000:]
    assert last(whole)["global_step"] == 10
    for step in (3, 8):
        folder = tmp_path / f"at{step}"
        killed = with_signal(config, step, signal.SIGKILL)
        assert finish(start(flags(killed, folder, "--qat", "stochastic"), log)) == [-signal.SIGKILL]
        again = flags(config, folder, "--qat", "stochastic", "--ckpt_path", "last")
        assert finish(start(again, log)) == [0], log.read_text()[-3000:]
        assert_same_end(folder, whole, f"stream, killed at step {step}")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["ptq_mse", "deterministic"])
def test_killed_in_calibration(config: Path, tmp_path: Path, uncut: Callable[..., Path], preset: str) -> None:
    log, whole, folder = tmp_path / "log", uncut(preset), tmp_path / "killed"
    killed = with_callback(config, KillInCalibration)
    assert finish(start(flags(killed, folder, "--qat", preset), log)) == [-signal.SIGKILL]
    again = flags(config, folder, "--qat", preset, "--ckpt_path", "last")
    assert finish(start(again, log)) == [0], log.read_text()[-3000:]
    assert_equal(last(folder)["state_dict"], last(whole)["state_dict"], preset)
