"""Cost of a quantization-aware training step: float, deterministic and stochastic models take turns.

`fused_observer` is PyTorch's own fused observer and fake quantizer (`torch.ao`) on every linear and convolutional
layer, for comparison. Losses are CTC, batches random.

`python -m benchmarks.qat_step [--models crdnn wav2vec2] [--batch 8] [--seconds 3] [--repeats 10]`
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.quantization import FusedMovingAvgObsFakeQuantize, MovingAveragePerChannelMinMaxObserver

from benchmarks.common import PUBLISHED, calibrate_on_noise_, mini, noise
from benchmarks.result_file import save, table
from qat.models.ctc import CTCModule
from qat.recipe import Recipe

RECIPES = {
    "off": None,
    "deterministic": Recipe(preset="deterministic", weight_observer="max"),
    "stochastic": Recipe(preset="stochastic", weight_observer="max", rounding="stochastic"),
}
TEXT = "turn the light in the kitchen on"


class FusedObserver(nn.Module):
    """PyTorch's fused quantizers around a linear or convolutional layer."""

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.inputs = FusedMovingAvgObsFakeQuantize(quant_min=0, quant_max=255)
        self.weights = FusedMovingAvgObsFakeQuantize(
            observer=MovingAveragePerChannelMinMaxObserver,
            quant_min=-127,
            quant_max=127,
            dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )
        self.kernel_size, self.stride = getattr(layer, "kernel_size", None), getattr(layer, "stride", None)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        x, weight = self.inputs(x), self.weights(self.layer.weight)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)


def fused_observer(kind: str) -> CTCModule:
    """The float model with `FusedObserver` around its linear and convolutional layers."""
    module = mini(kind, None)
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if type(child) in (nn.Linear, nn.Conv1d, nn.Conv2d):
                parent._modules[name] = FusedObserver(child)
    return module


def candidates(kind: str) -> dict[str, CTCModule]:
    """Name -> model in training mode, quantizers on."""
    models = {}
    for name, recipe in RECIPES.items():
        models[name] = mini(kind, recipe)
        if recipe is not None:
            calibrate_on_noise_(models[name])
    models["fused_observer"] = fused_observer(kind)
    return {name: module.train() for name, module in models.items()}


def step(module: CTCModule, optimizer: torch.optim.Optimizer, signal: Tensor, lengths: Tensor) -> float:
    """Seconds of one forward, backward and optimiser step."""
    started = time.perf_counter()
    loss = module.ctc_loss(*module(signal, lengths), [TEXT] * len(signal))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    module.step_key.step += 1
    return time.perf_counter() - started


def measure(kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians of all candidates of one model."""
    models = candidates(kind)
    optimizers = {name: torch.optim.AdamW(module.parameters(), lr=1e-6) for name, module in models.items()}
    signal = noise(options.batch, options.seconds)
    lengths = torch.full((options.batch,), signal.shape[1])
    times: dict[str, list[float]] = {name: [] for name in models}
    for run in range(options.warmup + options.repeats):
        for name, module in models.items():
            seconds = step(module, optimizers[name], signal, lengths)
            if run >= options.warmup:
                times[name].append(seconds)
    return [
        {
            "model": f"mini {kind}",
            "method": name,
            "step_ms": 1000 * statistics.median(own),
            "ratio": statistics.median(one / two for one, two in zip(own, times["off"], strict=True)),
            "times_ms": [round(1000 * item, 2) for item in own],
            "batch": options.batch,
            "seconds": options.seconds,
            "threads": options.threads,
        }
        for name, own in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = [row for kind in options.models for row in measure(kind, options)]
    print(table(results, ["model", "method", "step_ms", "ratio"]))
    print(f"saved {save('qat_step', results)}")


if __name__ == "__main__":
    main()
