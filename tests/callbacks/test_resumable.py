"""Signals and what a checkpoint says of its run; whole runs that are killed are in tests/test_kill.py."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules.base import SpeechDataModule
from qat.callbacks.resumable import SIGNALS, Resumable, Stopped, handle_signals
from qat.system.errors import UserError


def trainer_of(data: SpeechDataModule, **changes: Any) -> Any:
    facts = {"datamodule": data, "accumulate_grad_batches": 1, "ckpt_path": "some", "global_step": 3}
    facts |= {
        "world_size": 1,
        "is_global_zero": True,
        "loggers": [],
        "current_epoch": 1,
        "is_last_batch": False,
    }
    strategy = SimpleNamespace(launcher=None)
    return SimpleNamespace(strategy=strategy, **{**facts, **changes})


@pytest.fixture
def resumable(tmp_path: Path, tiny_data: SpeechDataModule) -> Any:
    """One that handles signals, until the test ends."""
    callback = Resumable(tmp_path / "mine", every_steps=2)
    trainer: Any = trainer_of(tiny_data)
    callback.on_fit_start(trainer, None)  # type: ignore[arg-type]
    yield callback
    callback.teardown(trainer, None, "fit")  # type: ignore[arg-type]


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_a_step_a_signal_stops_at_once(
    resumable: Resumable, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), number)
    assert stopped.value.code == 128 + number
    expected = f"stopped by {number.name} after step 3; resume with --run mine --ckpt_path last\n"
    assert capsys.readouterr().err == expected


def test_in_training_a_signal_waits_for_the_end_of_the_step(
    resumable: Resumable, tiny_data: SpeechDataModule
) -> None:
    saved: list[Path] = []
    trainer = trainer_of(tiny_data, save_checkpoint=lambda path, **_: saved.append(path))
    trainer._logger_connector = SimpleNamespace(should_update_logs=False)
    trainer.fit_loop = None
    model: Any = None
    resumable.on_train_start(trainer, model)
    os.kill(os.getpid(), signal.SIGTERM)
    resumable.on_train_batch_end(trainer, model, None, None, 0)
    assert saved == [resumable.run_folder / "last.ckpt"]
    with pytest.raises(Stopped):
        resumable.on_train_batch_start(trainer, model, None, 1)


def test_the_handlers_of_before_come_back(tmp_path: Path, tiny_data: SpeechDataModule) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    callback, trainer = Resumable(tmp_path), trainer_of(tiny_data)
    model: Any = None
    callback.on_fit_start(trainer, model)
    assert [signal.getsignal(number) for number in SIGNALS] == [callback.handle] * len(SIGNALS)
    callback.teardown(trainer, model, "fit")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_no_handler_is_set() -> None:
    found: list[dict[int, Any]] = []
    thread = threading.Thread(target=lambda: found.append(handle_signals(signal.SIG_IGN)))
    thread.start()
    thread.join()
    assert found == [{}]


def test_a_checkpoint_says_what_a_resumed_run_must_share(
    resumable: Resumable, tiny_data: SpeechDataModule
) -> None:
    checkpoint: dict[str, Any] = {}
    model: Any = None
    resumable.on_save_checkpoint(trainer_of(tiny_data), model, checkpoint)
    assert set(checkpoint) == {"course", "logged", "processes", "inside_epoch"}, (
        "the keys of older checkpoints"
    )
    assert {"accumulate_grad_batches", "seed"} | set(tiny_data.training_facts()) == set(checkpoint["course"])


def test_inside_an_epoch_the_number_of_processes_must_be_the_same(
    resumable: Resumable, tiny_data: SpeechDataModule
) -> None:
    model: Any = None
    two = trainer_of(tiny_data, world_size=2)
    resumable.on_load_checkpoint(two, model, {"processes": 1, "inside_epoch": False})
    resumable.on_load_checkpoint(two, model, {"processes": 2, "inside_epoch": True})
    with pytest.raises(UserError, match="--ckpt_path: 2 processes must be 1, as the checkpoint was written"):
        resumable.on_load_checkpoint(two, model, {"processes": 1, "inside_epoch": True})


def test_the_first_interrupt_waits_for_the_step_and_the_second_does_not(
    resumable: Resumable, tiny_data: SpeechDataModule, capfd: pytest.CaptureFixture[str]
) -> None:
    resumable.on_train_start(trainer_of(tiny_data), None)  # type: ignore[arg-type]
    os.kill(os.getpid(), signal.SIGINT)
    assert (
        resumable.received == signal.SIGINT and "press Ctrl-C again to stop at once" in capfd.readouterr().err
    )
    with pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.code == 130
    assert "resume with --run mine --ckpt_path last" in capfd.readouterr().err


def test_a_checkpoint_knows_its_teacher(resumable: Resumable, tiny_data: SpeechDataModule) -> None:
    for teacher, expected in ((None, {}), (SimpleNamespace(sha256="abc"), {"teacher_sha256": "abc"})):
        checkpoint: dict[str, Any] = {}
        module: Any = SimpleNamespace(teacher=teacher)
        resumable.on_save_checkpoint(trainer_of(tiny_data), module, checkpoint)
        assert {key: value for key, value in checkpoint.items() if key == "teacher_sha256"} == expected
