"""What layers cost on this machine: milliseconds from ONNX Runtime's profiler, bytes from the stored constants."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from qat.evaluation.graphs import graphs_of
from qat.runtime.attention_session import AttentionSession
from qat.runtime.graph import owner_of
from qat.runtime.session import PROVIDER, session_options

REST = ""  # what belongs to no layer, as `owner_of` says
NODE_SUFFIX = "_kernel_time"


@dataclass
class Costs:
    """What each layer of an exported file costs; what belongs to no layer stands under `REST`.

    Args:
        ms: layer -> milliseconds of an utterance, on average over the signals.
        bytes: layer -> of its constants.
        unrest: by how much the median run took longer than the shortest, as a share: about 0.05 on a quiet machine.
    """

    ms: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    unrest: float = 0.0


def constant_bytes(path: Path, layers: Sequence[str]) -> dict[str, int]:
    """Layer -> bytes of its constants in a file or folder; one without a layer's name is of the node that reads it."""
    found: dict[str, int] = {}
    for file in graphs_of(path):
        graph, readers = onnx.load(str(file)).graph, dict[str, str]()
        for node in graph.node:
            for name in node.input:
                readers[name] = readers.get(name) or owner_of(node.name, layers)
        for item in graph.initializer:
            size = len(item.raw_data) or numpy_helper.to_array(item).nbytes
            owner = owner_of(item.name, layers) or readers.get(item.name, REST)
            found[owner] = found.get(owner, 0) + size
    return found


def node_times(events: Sequence[Mapping[str, Any]], layers: Sequence[str]) -> dict[str, float]:
    """Layer -> milliseconds of its nodes, from the events of ONNX Runtime's profiler for one run."""
    found: dict[str, float] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(NODE_SUFFIX):
            owner = owner_of(name.removesuffix(NODE_SUFFIX), layers)
            found[owner] = found.get(owner, 0.0) + float(event["dur"]) / 1000
    return found


class Profiled:
    """An exported file whose nodes are timed.

    Args:
        path: of the file.
        folder: for what the profiler writes.
        threads: of the engine.
    """

    def __init__(self, path: Path, folder: Path, threads: int) -> None:
        self.engine = profiled_engine(path, folder / path.stem, threads)

    def run_signal(self, signal: NDArray[Any]) -> None:
        """Read one signal `(S,)`."""
        inputs = {"signal": signal[None], "lengths": np.array([signal.size], dtype=np.int64)}
        self.engine.run(None, inputs)

    def runs(self) -> list[list[dict[str, Any]]]:
        """The events of each run, in order; ends the profile."""
        return runs_of(self.engine)


class ProfiledFolder(AttentionSession):
    """An exported folder whose nodes are timed, as its own search runs them.

    Args:
        path: of the folder.
        folder: for what the profiler writes.
        threads: of the engine.
    """

    def __init__(self, path: Path, folder: Path, threads: int) -> None:
        self.folder, self.counted = folder, list[CountedEngine]()
        self.counts: list[list[int]] = []  # runs of each engine up to the end of each signal
        super().__init__(path, threads)

    def open(self, graph: str) -> CountedEngine:
        """See `AttentionSession`."""
        prefix = self.folder / f"{self.path.name}-{Path(graph).stem}"
        self.counted.append(CountedEngine(profiled_engine(self.path / graph, prefix, self.threads)))
        return self.counted[-1]

    def run_signal(self, signal: NDArray[Any]) -> None:
        """Read one signal `(S,)`."""
        self.transcribe(signal)
        self.counts.append([engine.count for engine in self.counted])

    def runs(self) -> list[list[dict[str, Any]]]:
        """The events of each signal, of all graphs; ends the profiles."""
        of_engines, found = [runs_of(engine.engine) for engine in self.counted], []
        first = [0] * len(self.counted)
        for last in self.counts:
            parts = [runs[i:j] for runs, i, j in zip(of_engines, first, last, strict=True)]
            found.append([event for runs in parts for run in runs for event in run])
            first = last
        return found


class CountedEngine:
    """An engine that counts its runs.

    Args:
        engine: of one graph.
    """

    def __init__(self, engine: ort.InferenceSession) -> None:
        self.engine, self.count = engine, 0

    def run(self, *arguments: Any) -> Any:
        """As the engine."""
        self.count += 1
        return self.engine.run(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


def profiled_engine(path: Path, prefix: Path, threads: int) -> ort.InferenceSession:
    """An engine whose profile begins with `prefix`."""
    options = session_options(threads)
    options.enable_profiling, options.profile_file_prefix = True, str(prefix)
    return ort.InferenceSession(str(path), options, providers=[PROVIDER])


def runs_of(engine: ort.InferenceSession) -> list[list[dict[str, Any]]]:
    """The events of each run of an engine, in order; ends its profile."""
    path = Path(engine.end_profiling())
    events = json.loads(path.read_text())
    path.unlink()
    return split_runs(events)


def split_runs(events: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """The node events of each run: the profiler reports a run once its nodes are done."""
    found: list[list[dict[str, Any]]] = [[]]
    for event in sorted(events, key=lambda item: float(item["ts"]) + float(item.get("dur", 0))):
        if event.get("cat") == "Node":
            found[-1].append(dict(event))
        elif event.get("name") == "model_run":
            found.append([])
    return found[:-1]


def profile(
    paths: Mapping[str, Path],
    signals: Sequence[NDArray[Any]],
    layers: Sequence[str],
    threads: int = 1,
    repeats: int = 5,
) -> dict[str, Costs]:
    """Time the nodes of exported files, which take turns; of each layer's times for a signal the least counts.

    Args:
        paths: kernel -> file or folder.
        signals: samples `(S,)` each.
        layers: dotted names.
        threads: of the engine.
        repeats: of each signal, besides one that warms up.

    Returns:
        kernel -> costs, without bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        engines = {
            name: (ProfiledFolder if path.is_dir() else Profiled)(path, Path(folder), threads)
            for name, path in paths.items()
        }
        for _ in range(repeats + 1):
            for signal in signals:
                for engine in engines.values():
                    engine.run_signal(signal)
        runs = {name: [node_times(run, layers) for run in engine.runs()] for name, engine in engines.items()}
    return {
        name: Costs(least_times(mine, len(signals)), unrest=unrest_of(mine, len(signals)))
        for name, mine in runs.items()
    }


def unrest_of(runs: Sequence[Mapping[str, float]], signals: int) -> float:
    """By how much the median run of a signal takes longer than its shortest, as a share, on average over the signals.

    >>> unrest_of([{"a": 9.0}, {"a": 1.0}, {"a": 1.5}, {"a": 9.0}], 1)
    0.5
    """
    kept = [sum(run.values()) for run in runs[signals:] or runs]  # the first turn warms up
    of_each = [kept[place::signals] for place in range(signals)]
    return float(np.mean([np.median(times) / min(times) - 1 for times in of_each]))


def least_times(runs: Sequence[Mapping[str, float]], signals: int) -> dict[str, float]:
    """Layer -> mean over the signals of the least of its times; runs go through all signals in turns.

    >>> least_times([{"a": 9.0}, {"a": 9.0}, {"a": 1.0}, {"a": 4.0}, {"a": 2.0}, {"a": 3.0}], 2)
    {'a': 2.0}
    """
    kept = runs[signals:] or runs  # the first turn warms up
    names = list(dict.fromkeys(name for run in kept for name in run))
    return {
        name: sum(min(run.get(name, 0.0) for run in kept[place::signals]) for place in range(signals))
        / signals
        for name in names
    }
