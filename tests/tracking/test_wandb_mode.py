"""Online, offline or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.tracking import wandb_mode
from qat.tracking.wandb_mode import choose_mode


def test_mode_follows_the_environment_then_the_flag_then_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_mode(None)[0] == "offline" and "no W&B key" in choose_mode(None)[1]
    assert choose_mode(False)[0] == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert "does not answer" in choose_mode(None)[1]
    monkeypatch.setattr(wandb_mode, "server_answers", lambda: True)
    assert choose_mode(None)[0] == "online" and choose_mode(False)[0] == "online"
    assert choose_mode(True)[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert choose_mode(False)[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_mode(False)[0] == "disabled"


def test_a_stored_key_is_found_by_host(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\n  login user\n  password nothing\n")
    assert wandb_mode.has_key()
    (tmp_path / ".netrc").write_text("machine elsewhere\n  login user\n  password nothing\n")
    assert not wandb_mode.has_key()
