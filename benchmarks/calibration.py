"""Cost of calibration: forward passes with and without observers, the choice of ranges, and memory.

`python -m benchmarks.calibration [--models crdnn wav2vec2] [--utterances 32] [--seconds 4]`
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.common import PUBLISHED, mini, noise, save, table
from qat.layers import calibrate_weights_, finish_calibration_, quantizers, set_observing_
from qat.models import CTCModule
from qat.recipe import Recipe
from qat.runtime.worker import peak_memory_mb

OBSERVERS = ("max", "mse", "percentile", "entropy")


@torch.no_grad()
def forward(module: CTCModule, options: argparse.Namespace) -> float:
    """Seconds of reading all utterances."""
    started = time.perf_counter()
    for index in range(options.utterances):
        signal = noise(1, options.seconds * (0.5 + index % 3 / 2), seed=index)
        module(signal, torch.tensor([signal.shape[1]]))
    return time.perf_counter() - started


def measure(kind: str, observer: str, options: argparse.Namespace) -> dict[str, Any]:
    """One observer on one model."""
    recipe = Recipe(preset="benchmark", weight_observer=observer, activation_observer=observer)
    module = mini(kind, recipe).eval()
    forward(module, argparse.Namespace(**{**vars(options), "utterances": 2}))
    plain_s, before_mb = forward(module, options), peak_memory_mb()
    set_observing_(module, True)
    observed_s = forward(module, options)
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
        "forward_s": plain_s,
        "observed_s": observed_s,
        "ratio": observed_s / plain_s,
        "weights_s": weights_s,
        "activations_s": time.perf_counter() - started,
        "added_memory_mb": max(peak_memory_mb() - before_mb, 0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--utterances", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0, help="mean length of an utterance")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = [measure(kind, observer, options) for kind in options.models for observer in OBSERVERS]
    columns = ["model", "observer", "quantizers", "utterances", "forward_s", "observed_s", "ratio"]
    columns += ["weights_s", "activations_s", "added_memory_mb"]
    print(table(results, columns))
    print(f"saved {save('calibration', results)}")


if __name__ == "__main__":
    main()
