"""A process that times one file: `python -m benchmarks.peers_worker`, driven by `benchmarks.peers_speed`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from qat.runtime.worker import serve


def opened(engine: str, path: Path, threads: int) -> Any:
    """What runs a file: its `run` takes samples `(B, S)` and lengths `(B,)`."""
    if engine == "openvino":
        from benchmarks.peers_openvino import OpenVINOSession

        return OpenVINOSession(path / "model.xml" if path.is_dir() else path, threads=threads)
    from qat.runtime.session import Session

    return Session(path, threads)


def answer(request: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """One reply.

    Requests: `{"open": path, "engine": name, "signals": npz, "cores": [0] | null, "threads": 1}`, `{"run": index}`, of
    one signal, and `{"batch": true}`, of the two arrays of the file, samples `(B, S)` and lengths `(B,)`. The last two
    answer with `seconds` of processor time, all threads together, and `wall_s`.
    """
    if "open" in request:
        if request.get("cores"):
            os.sched_setaffinity(0, request["cores"])  # before the engine makes its threads, which inherit it
        with np.load(request["signals"]) as signals:
            state["signals"] = [signals[str(index)] for index in range(len(signals.files))]
        state["session"] = opened(request["engine"], Path(request["open"]), request["threads"])
        return {"opened": True}
    if "batch" in request:
        signal, lengths = state["signals"][0], state["signals"][1].astype(np.int64)
    else:
        signal = state["signals"][request["run"]][None]
        lengths = np.array([signal.size], dtype=np.int64)
    started = time.perf_counter(), time.process_time()
    state["session"].run(signal, lengths)
    wall, seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    return {"seconds": seconds, "wall_s": wall}


if __name__ == "__main__":
    serve(answer)
