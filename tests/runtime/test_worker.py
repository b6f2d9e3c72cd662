"""The process that runs one file and times it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qat.decoding.options import DecodingOptions
from qat.runtime.latency import Worker
from qat.runtime.worker import answer, peak_memory_mb
from qat.system.errors import UserError
from tests.runtime.conftest import Exported


def test_the_worker_does_not_load_pytorch(crdnn: Exported, tmp_path: Path) -> None:
    np.savez(tmp_path / "signals.npz", **{"0": np.zeros(8_000, np.float32)})
    with Worker(crdnn.integer.path, tmp_path / "signals.npz", 1) as worker:
        reply = worker.ask(open=str(crdnn.integer.path), signals=str(tmp_path / "signals.npz"), threads=1)
    assert reply["torch"] is False


def test_a_request_that_fails_is_answered_and_the_worker_lives(crdnn: Exported, tmp_path: Path) -> None:
    np.savez(tmp_path / "signals.npz", **{"0": np.zeros(8_000, np.float32)})
    with Worker(crdnn.integer.path, tmp_path / "signals.npz", 1) as worker:
        with pytest.raises(UserError, match="latency: KeyError: 'run'|latency: IndexError"):
            worker.ask(run=9)
        assert worker.seconds(0) > 0


def test_memory_is_a_process_in_megabytes() -> None:
    assert 10 < peak_memory_mb() < 1e5
    assert answer({"memory": True}, {})["peak_memory_mb"] >= 10


def test_a_run_of_a_folder_is_a_transcription_with_its_parts(attention: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "signals.npz", **{"0": np.zeros(8_000, np.float32)})
    decoding = DecodingOptions(beam=2)
    with Worker(attention.integer.path, tmp_path / "signals.npz", 1, decoding=decoding) as worker:
        run = worker.timed(0)
        reply = worker.ask(open=str(attention.integer.path), signals=str(tmp_path / "signals.npz"), threads=1)
    assert set(run.parts_ms) == {"encoder", "decoder_step", "lm_step", "search"}
    assert 0 < sum(run.parts_ms.values()) <= 1000 * run.seconds
    assert reply["torch"] is False


@pytest.mark.parametrize("kind", ["crdnn", "attention"])
def test_a_long_signal_is_timed_as_it_is_read(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = request.getfixturevalue(kind).integer.path
    np.savez(tmp_path / "signals.npz", **{"0": 0.1 * np.ones(16_000 * 25, np.float32)})
    state: dict[str, Any] = {}
    answer({"open": str(file), "signals": str(tmp_path / "signals.npz"), "threads": 1, "window_s": 10}, state)
    lengths: list[int] = []
    run = state["session"].run
    monkeypatch.setattr(
        state["session"], "run", lambda signal, more: lengths.append(signal.shape[1]) or run(signal, more)
    )
    reply = answer({"run": 0}, state)
    assert len(lengths) >= 3 and max(lengths) <= 160_000 and reply["seconds"] > 0
    assert set(reply.get("parts_ms", {})) == (
        {"encoder", "decoder_step", "lm_step", "search"} if kind == "attention" else set()
    )
