"""Latency and memory of a float and an integer file: same engine, own processes, taking turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from datamodules.audio_file import SAMPLE_RATE
from qat.decoding.options import DecodingOptions
from qat.decoding.windows import WINDOW_S
from qat.runtime.formats import DEFAULT_RUNNER, Runner
from qat.system.errors import UserError
from qat.system.hardware import gpu, idle_cores, processor

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """One timed run.

    Attributes:
        seconds: from samples to logits; from samples to text where a search runs graphs step by step.
        parts_ms: part of a transcription -> milliseconds; empty where a file is one graph.
    """

    seconds: float
    parts_ms: Mapping[str, float]


class ChildProcess:
    """A child that answers requests (`qat.runtime.worker.serve`); use as a context manager.

    Args:
        module: that it runs.
        threads: for OpenMP.
    """

    def __init__(self, module: str, threads: int) -> None:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request, wait for its answer.

        Raises:
            UserError: the child could not do it, or has ended.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply = json.loads(line) if line else {"error": "the latency worker ended (out of memory?)"}
        if "error" in reply:
            raise UserError(f"latency: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Worker(ChildProcess):
    """A child process that holds one file.

    Args:
        path: an exported file or folder.
        signals: `.npz` with the signals "0", "1", ...
        threads: of the engine.
        cores: what it may run on; None leaves that to the system.
        decoding: what a user has changed of the model's own search.
        window_s: see `measure_latency`.
        runner: engine and provider.

    Raises:
        UserError: the child could not open the file.
    """

    def __init__(
        self,
        path: Path,
        signals: Path,
        threads: int,
        cores: list[int] | None = None,
        decoding: DecodingOptions | None = None,
        window_s: int = WINDOW_S,
        runner: Runner = DEFAULT_RUNNER,
    ) -> None:
        super().__init__("qat.runtime.worker", threads)
        try:
            request = {
                "open": str(path.resolve()),
                "signals": str(signals),
                "threads": threads,
                "cores": cores,
                "decoding": (decoding or DecodingOptions()).to_dict(),
                "window_s": window_s,
                "engine": runner.engine,
                "provider": runner.provider,
            }
            opened = self.ask(**request)
            self.runner = runner
            self.provider, self.cores = str(opened["provider"]), opened["cores"]
        except BaseException:
            self.close()
            raise

    def seconds(self, index: int) -> float:
        """Time of one run on signal `index`."""
        return float(self.ask(run=index)["seconds"])

    def timed(self, index: int) -> Run:
        """One run on signal `index`."""
        reply = self.ask(run=index)
        return Run(float(reply["seconds"]), reply.get("parts_ms") or {})


def engine_of(worker: Worker) -> dict[str, str]:
    """What computed a measurement."""
    if worker.runner.engine == "openvino":
        from qat.runtime.openvino_engine import version

        name = version()
    else:
        name = f"onnxruntime {ort.__version__}"
    return {
        "engine": name,
        "provider": worker.provider,
        "device": processor() if worker.runner.provider == "cpu" else f"{gpu()} beside {processor()}",
    }


def measure_latency(
    float_path: str | Path,
    integer_path: str | Path,
    signals: Sequence[NDArray[Any]],
    threads: int = 1,
    warmup: int = 3,
    repeats: int = 20,
    decoding: DecodingOptions | None = None,
    window_s: int = WINDOW_S,
    runner: Runner = DEFAULT_RUNNER,
) -> dict[str, Any]:
    """Time both files on the same signals, one utterance per batch; they take turns, each first every other time.

    Both processes are kept on the same cores: on a shared machine cores differ by a third.

    Args:
        float_path: the reference.
        integer_path: what is compared with it.
        signals: samples `(S,)` at 16 kHz; run `i` takes signal `i % len(signals)`.
        threads: of the engine, at least 1.
        warmup: untimed runs of each file, on the longest signals.
        repeats: timed runs of each file, at least 1.
        decoding: what a user has changed of the model's own search.
        window_s: signals longer than this are read in windows, as `qat.decoding.windows` says.
        runner: of both files. All but the default one prepare anew for each length: all signals warm them up.

    Returns:
        `float` and `integer` (see `summary`); `speedup` (float p50 / integer p50); engine, provider, device, counts.

    Raises:
        UserError: no signals, or a bad count.
    """
    check_counts(signals=len(signals), threads=threads, warmup=warmup, repeats=repeats)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        store, cores = write_signals(Path(folder), signals), idle_cores(threads)
        more = (store, threads, cores, decoding, window_s, runner)
        paths = (Path(float_path), Path(integer_path))
        workers = [stack.enter_context(worker) for worker in (Worker(path, *more) for path in paths)]
        lengths = [len(signal) for signal in signals]
        warm_up(workers, lengths, warmup if runner.is_default else max(warmup, len(signals)))
        runs = take_turns(workers, len(signals), repeats)
        memory = [float(worker.ask(memory=True)["peak_memory_mb"]) for worker in workers]
    audio_s = sum(len(signals[run % len(signals)]) for run in range(repeats)) / SAMPLE_RATE
    first, second = (summary(*pair, audio_s) for pair in zip(runs, memory, strict=True))
    return {
        **engine_of(workers[0]),
        **{"threads": threads, "warmup": warmup, "repeats": repeats},
        **{"float": first, "integer": second},
        "speedup": first["latency_ms"]["p50"] / second["latency_ms"]["p50"],
    }


def check_counts(signals: int, threads: int, warmup: int, repeats: int) -> None:
    """Refuse a measurement of nothing.

    Raises:
        UserError: naming the count.
    """
    if not signals:
        raise UserError("latency: no signals to time, must be at least one; give utterances of a test set")
    for name, value, least in (("threads", threads, 1), ("warmup", warmup, 0), ("repeats", repeats, 1)):
        if value < least:
            raise UserError(f"latency: {name} {value}, must be at least {least}")


def write_signals(folder: Path, signals: Sequence[NDArray[Any]]) -> Path:
    """The signals in one `.npz`, as "0", "1", ..., for the workers to read."""
    path = folder / "signals.npz"
    arrays: dict[str, Any] = {str(index): np.asarray(item, np.float32) for index, item in enumerate(signals)}
    np.savez(path, **arrays)
    return path


def warm_up(workers: Sequence[Worker], lengths: Sequence[int], runs: int) -> None:
    """Untimed runs of each worker, on the longest signals."""
    longest = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for run in range(runs):
        for worker in workers:
            worker.seconds(longest[run % len(longest)])


def take_turns(workers: Sequence[Worker], signals: int, repeats: int) -> list[list[Run]]:
    """Each worker's runs; who goes first changes every time."""
    runs: list[list[Run]] = [[] for _ in workers]
    for run in range(repeats):
        order = range(len(workers)) if run % 2 == 0 else reversed(range(len(workers)))
        for index in order:
            runs[index].append(workers[index].timed(run % signals))
    return runs


def summary(runs: Sequence[Run], peak_memory_mb: float, audio_s: float) -> dict[str, Any]:
    """One file: `latency_ms` {p50, p95}, `rtf`, `peak_memory_mb`, `times_ms`, and `parts_ms`, medians of its parts."""
    seconds = [run.seconds for run in runs]
    milliseconds = 1000 * np.asarray(seconds)
    p50, p95 = np.percentile(milliseconds, [50, 95])
    parts = {name: float(np.median([run.parts_ms[name] for run in runs])) for name in runs[0].parts_ms}
    return {
        "latency_ms": {"p50": float(p50), "p95": float(p95)},
        "rtf": float(sum(seconds) / audio_s),
        "peak_memory_mb": peak_memory_mb,
        "times_ms": [round(float(item), 3) for item in milliseconds],
        **({"parts_ms": parts} if parts else {}),
    }
