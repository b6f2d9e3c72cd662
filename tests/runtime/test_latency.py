"""The timing harness."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from qat.runtime.latency import Run, Worker, measure_latency, summary
from qat.system.errors import UserError
from qat.system.hardware import idle_cores
from tests.runtime.conftest import Exported


def test_both_files_are_timed_on_the_same_runs(crdnn: Exported) -> None:
    assert crdnn.float is not None
    signals = [np.zeros(8_000, np.float32), np.zeros(16_000, np.float32)]
    timing = measure_latency(crdnn.float.path, crdnn.integer.path, signals, warmup=1, repeats=4)
    assert timing["provider"] == "CPUExecutionProvider" and timing["engine"].startswith("onnxruntime")
    for precision in ("float", "integer"):
        own = timing[precision]
        assert len(own["times_ms"]) == 4
        assert 0 < own["latency_ms"]["p50"] <= own["latency_ms"]["p95"]
        assert own["rtf"] == pytest.approx(sum(own["times_ms"]) / 1000 / 3.0, rel=0.01)
        assert 20 < own["peak_memory_mb"] < 300  # an engine's, not PyTorch's
    ratio = timing["float"]["latency_ms"]["p50"] / timing["integer"]["latency_ms"]["p50"]
    assert timing["speedup"] == pytest.approx(ratio)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not pin processes")
def test_workers_stay_on_the_idlest_cores(
    crdnn: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.sched_getaffinity(0)
    assert set(idle_cores(1, 0.0) or []) < allowed or len(allowed) == 1
    assert set(idle_cores(len(allowed), 0.0) or []) == allowed
    assert idle_cores(len(allowed) + 1, 0.0) is None
    last = max(allowed)
    counts = iter([dict.fromkeys(allowed, 0), {core: int(core == last) for core in allowed}])
    monkeypatch.setattr("qat.system.hardware.idle_ticks", lambda: next(counts))
    assert idle_cores(1, 0.0) == [last]
    np.savez(tmp_path / "signals.npz", **{"0": np.zeros(8_000, np.float32)})
    with Worker(crdnn.integer.path, tmp_path / "signals.npz", 1, [last]) as worker:
        assert worker.cores == [last]
    with Worker(crdnn.integer.path, tmp_path / "signals.npz", 1) as worker:
        assert set(worker.cores or []) == allowed


def test_bad_requests_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no signals"):
        measure_latency("a", "b", [])
    with pytest.raises(UserError, match="repeats"):
        measure_latency("a", "b", [np.zeros(1)], repeats=0)
    with pytest.raises(UserError, match="no such exported file"):
        measure_latency(tmp_path / "a", tmp_path / "b", [np.zeros(1)])


def test_parts_of_runs_become_medians() -> None:
    runs = [Run(0.003, {"encoder": value, "search": 2 * value}) for value in (1.0, 5.0, 2.0)]
    assert summary(runs, 80.0, 1.0)["parts_ms"] == {"encoder": 2.0, "search": 4.0}
    assert "parts_ms" not in summary([Run(0.003, {})], 80.0, 1.0)
