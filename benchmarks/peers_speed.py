"""Speed in `benchmarks.peers`: a quantized file beside ONNX Runtime's float file, in turns, on one thread."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers_subject import Signal
from qat.runtime.latency import ChildProcess, write_signals
from qat.system.hardware import idle_cores

ROUNDS = 3  # over all utterances, besides the first


class PeerWorker(ChildProcess):
    """A child that holds a file.

    Args:
        path: of the file; for OpenVINO a folder of its own format as well.
        engine: `onnxruntime` or `openvino`.
        signals: `.npz`.
        cores: what it may run on.
        threads: of the engine.
    """

    def __init__(
        self, path: Path, engine: str, signals: Path, cores: list[int] | None, threads: int = 1
    ) -> None:
        super().__init__("benchmarks.peers_worker", threads=threads)
        try:
            where = {"engine": engine, "signals": str(signals), "cores": cores}
            self.ask(open=str(path.resolve()), threads=threads, **where)
        except BaseException:
            self.close()
            raise


def speed(
    float_file: Path, file: Path, engine: str, signals: Sequence[Signal], rounds: int = ROUNDS
) -> dict[str, Any]:
    """How many times as fast as the float file a quantized one is.

    Both sides run every utterance once, which counts as the first time of its length, and then `rounds` times more;
    who goes first changes every time. What counts is processor time: with one thread it is the time that passes on an
    idle machine, and what else a shared machine does adds little to it.

    Args:
        float_file: for ONNX Runtime.
        file: quantized; for OpenVINO a folder.
        engine: `onnxruntime` or `openvino`.
        signals: samples `(S,)`; the last one warms both sides up and is not timed.
        rounds: after the first.

    Returns:
        See `summary`.
    """
    count = len(signals) - 1
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        store, cores = write_signals(Path(folder), signals), idle_cores(1)
        sides = [
            stack.enter_context(PeerWorker(*side, store, cores))
            for side in ((float_file, "onnxruntime"), (file, engine))
        ]
        for side in sides:
            side.ask(run=count)
        return summary(*take_turns(sides, count, count * (1 + rounds)), count)


def take_turns(sides: Sequence[PeerWorker], count: int, repeats: int) -> list[list[dict[str, float]]]:
    """Each side's times."""
    runs: list[list[dict[str, float]]] = [[] for _ in sides]
    for run in range(repeats):
        for index in (0, 1) if run % 2 == 0 else (1, 0):
            runs[index].append(sides[index].ask(run=run % count))
    return runs


def summary(base: Sequence[dict[str, float]], peer: Sequence[dict[str, float]], count: int) -> dict[str, Any]:
    """Medians of both sides' times, of which the first `count` are those of new lengths.

    Returns:
        `ratio` of the repeated times and `first_ratio`, medians over pairs of runs; `wall_ratio`, by the clock;
        `float_ms`, `peer_ms` and `first_ms`, medians.

    >>> base, peer = ([{"seconds": s, "wall_s": 2 * s} for s in side] for side in ((2, 1, 1), (4, 0.5, 0.25)))
    >>> found = summary(base, peer, 1)
    >>> found["ratio"], found["first_ratio"], found["float_ms"]
    (3.0, 0.5, 1000.0)
    """
    pairs = list(zip(base, peer, strict=True))

    def ratio(chosen: Sequence[tuple[dict[str, float], dict[str, float]]], clock: str) -> float:
        return statistics.median(one[clock] / two[clock] for one, two in chosen)

    def ms(runs: Sequence[dict[str, float]]) -> float:
        return 1000.0 * statistics.median(run["seconds"] for run in runs)

    return {
        "ratio": ratio(pairs[count:], "seconds"),
        "first_ratio": ratio(pairs[:count], "seconds"),
        "wall_ratio": ratio(pairs[count:], "wall_s"),
        "float_ms": ms(base[count:]),
        "peer_ms": ms(peer[count:]),
        "first_ms": ms(peer[:count]),
        "utterances": count,
        "runs": len(pairs) - count,
    }
