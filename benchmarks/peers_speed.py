"""Speed in `benchmarks.peers`: a quantized file beside ONNX Runtime's float file, in turns, on one thread."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers_subject import Signal
from qat.runtime.latency import ChildProcess, Run, Worker, take_turns, write_signals
from qat.system.hardware import idle_cores

ROUNDS = 3  # over all utterances, besides the first


class PeerWorker(ChildProcess):
    """A child that holds an OpenVINO model; answers as a `qat.runtime.latency.Worker`.

    Args:
        folder: with `model.xml`.
        signals: `.npz`.
        cores: what it may run on.
    """

    def __init__(self, folder: Path, signals: Path, cores: list[int] | None) -> None:
        super().__init__("benchmarks.peers_worker", threads=1)
        try:
            self.ask(open=str(folder / "model.xml"), signals=str(signals), cores=cores)
        except BaseException:
            self.close()
            raise

    def timed(self, index: int) -> Run:
        """One run on signal `index`."""
        return Run(float(self.ask(run=index)["seconds"]), {})


def speed(
    float_file: Path, file: Path, engine: str, signals: Sequence[Signal], rounds: int = ROUNDS
) -> dict[str, Any]:
    """How many times as fast as the float file a quantized one is.

    Both sides run every utterance once, which counts as the first time of its length, and then `rounds` times more.

    Args:
        float_file: for ONNX Runtime.
        file: quantized; for OpenVINO a folder.
        engine: `onnxruntime` or `openvino`.
        signals: samples `(S,)`; the last one warms both sides up and is not timed.
        rounds: after the first.

    Returns:
        `ratio` of the repeated times and `first_ratio`, medians over utterances in turns; `float_ms`, `peer_ms` and
        `first_ms`, medians.
    """
    count = len(signals) - 1
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        store, cores = write_signals(Path(folder), signals), idle_cores(1)
        base = stack.enter_context(Worker(float_file, store, 1, cores))
        peer: Any = stack.enter_context(
            Worker(file, store, 1, cores) if engine == "onnxruntime" else PeerWorker(file, store, cores)
        )
        for side in (base, peer):
            side.timed(count)
        runs = take_turns([base, peer], count, count * (1 + rounds))
    return summary([[run.seconds for run in side] for side in runs], count)


def summary(seconds: Sequence[Sequence[float]], count: int) -> dict[str, Any]:
    """Medians of both sides' times, of which the first `count` are those of new lengths.

    >>> summary([[2.0, 1.0, 1.0], [4.0, 0.5, 0.25]], 1)["ratio"]
    3.0
    """
    base, peer = seconds
    ratios = [one / two for one, two in zip(base, peer, strict=True)]

    def ms(values: Sequence[float]) -> float:
        return 1000 * statistics.median(values)

    return {
        "ratio": statistics.median(ratios[count:]),
        "first_ratio": statistics.median(ratios[:count]),
        "float_ms": ms(base[count:]),
        "peer_ms": ms(peer[count:]),
        "first_ms": ms(peer[:count]),
        "utterances": count,
        "runs": len(ratios) - count,
    }
