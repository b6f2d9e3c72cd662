"""The killer kills at its step, and only there."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from benchmarks.gpu_kill import KillAt


def test_it_kills_itself_at_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append((process, number)))
    trainer: Any = type("Trainer", (), {"global_step": 2})()
    killer = KillAt(3)
    killer.on_train_batch_start(trainer, None, None, 0)
    assert not sent
    trainer.global_step = 3
    killer.on_train_batch_start(trainer, None, None, 0)
    assert sent == [(os.getpid(), signal.SIGKILL)]
