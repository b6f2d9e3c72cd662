"""A measured variant gives a row for each batch; a failure is a row too."""

from __future__ import annotations

import argparse
import time

import pytest

from benchmarks import gpu_work
from benchmarks.gpu_rows import FAILED, MEASURED, NOT_RUN, OUT_OF_TIME
from benchmarks.gpu_sizes import Size, sizes
from benchmarks.gpu_steps import attempt, plain_work
from benchmarks.gpu_work import Work

TINY = {size.name: size for size in sizes(tiny=True)}


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setattr(gpu_work, "WARMUP", 1)
    monkeypatch.setattr(gpu_work, "STEPS", 2)
    monkeypatch.setattr(gpu_work, "launches_of", lambda work, device: (123, 4.5))
    return argparse.Namespace(device="cpu", until=time.time() + 600)


def test_a_variant_is_measured_on_every_batch(options: argparse.Namespace) -> None:
    rows = list(attempt(TINY["wav2vec2-large"], "stochastic", options, plain_work(options)))
    assert [(row["batch"], row["status"]) for row in rows] == [("1 x 1 s", MEASURED), ("3 x 1 s", MEASURED)]
    for row in rows:
        assert row["step_ms"] > 0 and row["evaluation_ms"] > 0 and row["launches"] == 123
        assert len(row["step_times_ms"]) == 2 and row["parameters_m"] >= 0


def test_a_failure_is_a_row_and_the_next_batch_is_tried(options: argparse.Namespace) -> None:
    def source(size: Size, variant: str) -> Work:
        raise RuntimeError("CUDA out of memory")

    rows = list(attempt(TINY["wav2vec2-large"], "float", options, source))
    assert [row["status"] for row in rows] == [FAILED, FAILED]
    assert rows[0]["note"].strip().endswith("RuntimeError: CUDA out of memory")


def test_nothing_starts_when_the_time_is_up(options: argparse.Namespace) -> None:
    options.until = time.time() - 1
    rows = list(attempt(TINY["crdnn"], "float", options, plain_work(options)))
    assert [(row["status"], row["note"]) for row in rows] == [(NOT_RUN, OUT_OF_TIME)]
