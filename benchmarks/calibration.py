"""Cost of calibration: forward passes with and without observers, the choice of ranges, and memory.

`python -m benchmarks.calibration [--models crdnn wav2vec2] [--utterances 24] [--seconds 4]`
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.common import PUBLISHED, mini, noise
from benchmarks.result_file import save, table
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.layers.swap import quantizers
from qat.models.ctc import CTCModule
from qat.recipe import Recipe

OBSERVERS = ("max", "mse", "percentile", "entropy")


@torch.no_grad()
def forward(module: CTCModule, index: int, options: argparse.Namespace) -> float:
    """Seconds of reading one utterance."""
    signal = noise(1, options.seconds * (0.5 + index % 3 / 2), seed=index)
    started = time.perf_counter()
    module(signal, torch.tensor([signal.shape[1]]))
    return time.perf_counter() - started


def measure(kind: str, observer: str, options: argparse.Namespace) -> dict[str, Any]:
    """One observer on one model; every utterance is read with and without observers, in turns."""
    recipe = Recipe(preset="benchmark", weight_observer=observer, activation_observer=observer)
    module = mini(kind, recipe).eval()
    times: dict[bool, list[float]] = {False: [], True: []}
    for index in range(-2, options.utterances):
        for observing in (False, True):
            set_observing_(module, observing)
            seconds = forward(module, abs(index), options)
            if index >= 0:
                times[observing].append(seconds)
    set_observing_(module, False)
    started = time.perf_counter()
    calibrate_weights_(module)
    weights_s = time.perf_counter() - started
    started = time.perf_counter()
    finish_calibration_(module)
    return {
        "model": f"mini {kind}",
        "observer": observer,
        "quantizers": sum(1 for _ in quantizers(module)),
        "utterances": options.utterances,
        "forward_ms": 1000 * statistics.median(times[False]),
        "observed_ms": 1000 * statistics.median(times[True]),
        "ratio": statistics.median(two / one for one, two in zip(*times.values(), strict=True)),
        "weights_s": weights_s,
        "activations_s": time.perf_counter() - started,
        "histograms_mb": sum(
            buffer.numel() * buffer.element_size()
            for name, buffer in module.named_buffers()
            if ".observer." in name
        )
        / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--utterances", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=4.0, help="mean length of an utterance")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = [measure(kind, observer, options) for kind in options.models for observer in OBSERVERS]
    columns = ["model", "observer", "quantizers", "utterances", "forward_ms", "observed_ms", "ratio"]
    columns += ["weights_s", "activations_s", "histograms_mb"]
    print(table(results, columns))
    print(f"saved {save('calibration', results)}")


if __name__ == "__main__":
    main()
