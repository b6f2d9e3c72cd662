"""A process that runs one exported file or folder and times it: `python -m qat.runtime.worker`, driven by `latency.py`.

Reads one JSON object per line from stdin and answers each with one on stdout. It imports numpy and onnxruntime only,
so that its peak memory is that of the engine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def answer(request: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """One reply.

    Requests: `{"open": path, "signals": npz, "threads": n, "cores": [0] | null, "decoding": {...}, "window_s": 40,
    "engine": "onnxruntime", "provider": "cpu"}`, `{"run": index}` and `{"memory": true}`. A run of one graph is from
    samples to logits, one of a folder from samples to text.
    """
    import numpy as np

    from qat.decoding.options import DecodingOptions
    from qat.decoding.windows import WINDOW_S, WindowedRecogniser
    from qat.runtime.attention_session import open_session
    from qat.runtime.formats import Runner

    if "open" in request:
        if request.get("cores"):
            os.sched_setaffinity(0, request["cores"])  # before the engine makes its threads, which inherit it
        with np.load(request["signals"]) as signals:
            state["signals"] = [signals[str(index)] for index in range(len(signals.files))]
        decoding = DecodingOptions.from_dict(request.get("decoding") or {})
        runner = Runner(request.get("engine", "onnxruntime"), request.get("provider", "cpu"))
        state["session"] = open_session(Path(request["open"]), request["threads"], decoding, runner)
        state["windowed"] = WindowedRecogniser(state["session"], request.get("window_s", WINDOW_S))
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        return {"provider": state["session"].provider, "torch": "torch" in sys.modules, "cores": cores}
    if "run" in request:
        return timed(state["signals"][request["run"]], state["session"], state["windowed"])
    return {"peak_memory_mb": peak_memory_mb()}


def timed(signal: Any, session: Any, windowed: Any) -> dict[str, Any]:
    """Seconds of one run, and milliseconds of its parts where there are several.

    Args:
        signal: samples `(S,)`.
        session: of a file or folder.
        windowed: the same, which reads a long signal in windows.
    """
    import numpy as np

    from qat.runtime.session import Session

    lengths = np.array([signal.size], dtype=np.int64)
    started = time.perf_counter()
    if not isinstance(session, Session):
        parts: dict[str, float] = {}
        for piece in windowed.pieces(signal):
            session.transcribe(piece)
            parts = {name: parts.get(name, 0.0) + value for name, value in session.times_ms.items()}
        return {"seconds": time.perf_counter() - started, "parts_ms": parts}
    if windowed.is_long(signal):
        windowed.emit(signal)
    else:
        session.run(signal[None], lengths)
    return {"seconds": time.perf_counter() - started}


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, MB."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def serve(answer: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]) -> None:
    """Answer requests until stdin closes; an error is the answer `{"error": text}`.

    Args:
        answer: request and what earlier ones left -> reply.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the replies
    state: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), state)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    serve(answer)
