"""A process that times one OpenVINO model: `python -m benchmarks.peers_worker`, driven by `benchmarks.peers_speed`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from qat.runtime.worker import serve


def answer(request: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """One reply to `{"open": xml, "signals": npz, "cores": [0] | null}` or `{"run": index}`."""
    from benchmarks.peers_openvino import OpenVINOSession

    if "open" in request:
        if request.get("cores"):
            os.sched_setaffinity(0, request["cores"])
        with np.load(request["signals"]) as signals:
            state["signals"] = [signals[str(index)] for index in range(len(signals.files))]
        state["session"] = OpenVINOSession(Path(request["open"]))
        return {"provider": "openvino"}
    signal = state["signals"][request["run"]]
    started = time.perf_counter()
    state["session"].run(signal)
    return {"seconds": time.perf_counter() - started}


if __name__ == "__main__":
    serve(answer)
