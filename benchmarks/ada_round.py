"""AdaRound of one linear layer: time of a step and error left, beside a plain loop and AIMET's on the same frames.

`plain` is the textbook loop: autograd through the layer on batches of frames. `aimet` is AIMET's (`pip install
aimet-torch`; left out where it is not installed), with its defaults. All round the same random weights to the same
bits after the same frames; errors are mean squares at the outputs, on frames that no method saw, over rounding to
nearest with the scales that AdaRound of this project starts from.

`python -m benchmarks.ada_round [--bits 4] [--steps 500] [--shape 1024 256]`
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.result_file import save, table
from qat.layers.linear import QuantLinear
from qat.layers.state import calibrate_weights_, set_enabled_
from qat.layers.swap import swap_
from qat.methods.reconstruction import LinearMap, Moments
from qat.numerics.ada_round import State, first_variable, hard_round, optimise, rectified_sigmoid
from qat.recipe import Recipe

BATCH = 32  # sequences a step, AIMET's constant
FRAMES = 100  # of a sequence

Method = Callable[[nn.Linear, Tensor, int, int], tuple[Tensor, float]]


def sequences(count: int, columns: int, seed: int) -> Tensor:
    """Correlated inputs `(count, FRAMES, columns)` with a mean, as after a LayerNorm and a GELU."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=torch.Generator().manual_seed(99)) / columns**0.5
    x = torch.randn(count, FRAMES, columns, generator=generator) @ mix
    return nn.functional.gelu(x + 0.3 * torch.roll(x, 1, dims=1))


def quantized(layer: nn.Linear, bits: int) -> QuantLinear:
    """The layer with weight quantizers alone, scales by mean squared error."""
    model = nn.Sequential(nn.Linear(layer.in_features, layer.out_features))
    model[0].load_state_dict(layer.state_dict())
    swap_(model, Recipe(preset="x", weight_bits=bits, activation_bits=None, ada_round=True))
    calibrate_weights_(model)
    set_enabled_(model, True)
    found = model.eval()[0]
    assert isinstance(found, QuantLinear)
    return found


@torch.no_grad()
def ours(layer: nn.Linear, x: Tensor, bits: int, steps: int) -> tuple[Tensor, float]:
    """Weights, and seconds a step of the gradient part alone."""
    quant = quantized(layer, bits)
    item, moments = LinearMap("layer", quant), Moments()
    rows = x.reshape(1, -1, x.shape[-1])
    moments.add(rows, rows)
    item.search_scale_(item.problem(moments, False))
    problem = item.problem(moments, False)
    state, started = State(problem.first_variable()), time.perf_counter()
    up = optimise(problem, state, steps)
    seconds = time.perf_counter() - started
    return problem.weight[0] + problem.change(up.float())[0], seconds / max(state.step, 1)


def plain(layer: nn.Linear, x: Tensor, bits: int, steps: int) -> tuple[Tensor, float]:
    """The textbook loop with the paper's settings."""
    quantizer: Any = quantized(layer, bits).weight_quantizer
    weight, scale = layer.weight.detach(), quantizer.scale.detach()[:, None]
    low, high = quantizer.quant_min, quantizer.quant_max
    variable = first_variable(weight / scale).requires_grad_()
    optimizer = torch.optim.Adam([variable], lr=1e-2)
    lower, target = (weight / scale).floor(), layer(x).detach()
    started = time.perf_counter()
    for step in range(steps):
        chosen = torch.randperm(len(x))[:BATCH]
        h = (variable.sigmoid() * 1.2 - 0.1).clamp(0, 1)
        rounded = (lower + h).clamp(low, high) * scale
        out = nn.functional.linear(x[chosen], rounded, layer.bias)
        loss = (out - target[chosen]).square().sum(-1).mean()
        if step >= 0.2 * steps:
            beta = 20 - 18 * (step / steps - 0.2) / 0.8
            loss = loss + 0.01 * (1 - (2 * h - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        assert rectified_sigmoid(variable).isfinite().all()
        return hard_round(weight, scale, variable.detach(), low, high), seconds / steps


AIMET_CONFIG = {
    "defaults": {
        "ops": {"is_output_quantized": "True"},
        "params": {"is_quantized": "True", "is_symmetric": "True"},
        "per_channel_quantization": "True",
    },
    **{"params": {}, "op_type": {}, "supergroups": [], "model_input": {}, "model_output": {}},
}


def aimet(layer: nn.Linear, x: Tensor, bits: int, steps: int) -> tuple[Tensor, float]:
    """AIMET's Adaround, per channel; set-up is taken out by the difference of two runs.

    It gives back weights that round to its choice by the encodings it writes beside them.
    """
    from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters

    def run(iterations: int) -> tuple[Tensor, float]:
        model = nn.Sequential(nn.Linear(layer.in_features, layer.out_features)).eval()
        model[0].load_state_dict(layer.state_dict())
        loader = list(x.split(BATCH))
        settings = AdaroundParameters(loader, len(loader), default_num_iterations=iterations)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.json"
            config.write_text(json.dumps(AIMET_CONFIG))
            rounded = Adaround.apply_adaround(
                model,
                x[:1],
                settings,
                folder,
                "layer",
                default_param_bw=bits,
                default_config_file=str(config),
            )
            seconds = time.perf_counter() - started
            encodings = json.loads((Path(folder) / "layer.encodings").read_text())
        found = next(iter(encodings.get("param_encodings", encodings).values()))
        scale = torch.tensor([item["scale"] for item in found])[:, None]
        assert len(scale) == layer.out_features  # per channel indeed
        low = int(found[0]["offset"])
        levels = (rounded[0].weight.detach() / scale).round().clamp(low, low + 2**bits - 1)
        return levels * scale, seconds

    _, setup = run(1)
    weight, total = run(steps)
    return weight, (total - setup) / (steps - 1)


def error(layer: nn.Linear, weight: Tensor, x: Tensor) -> float:
    """Mean square at the outputs."""
    with torch.no_grad():
        return float(nn.functional.linear(x, weight - layer.weight).square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--shape", type=int, nargs=2, default=[1024, 256], metavar=("OUT", "IN"))
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    layer = nn.Linear(options.shape[1], options.shape[0])
    x, unseen = sequences(options.sequences, options.shape[1], 1), sequences(64, options.shape[1], 2)
    with torch.no_grad():
        start = quantized(layer, options.bits)
        nearest = error(layer, start.weight_quantizer(layer.weight), unseen)
    methods: dict[str, Method] = {"ours": ours, "plain": plain, "aimet": aimet}
    results = []
    for name, method in methods.items():
        try:
            weight, seconds = method(layer, x, options.bits, options.steps)
        except ImportError as missing:
            print(f"{name}: left out ({missing})")
            continue
        results.append(
            {
                **{
                    "method": name,
                    "step_ms": 1000 * seconds,
                    "error_over_nearest": error(layer, weight, unseen) / nearest,
                },
                **{
                    "bits": options.bits,
                    "steps": options.steps,
                    "shape": options.shape,
                    "threads": options.threads,
                },
                "frames": x.shape[0] * x.shape[1],
            }
        )
    for row in results:
        row["ratio"] = row["step_ms"] / results[0]["step_ms"]
    print(table(results, ["method", "step_ms", "ratio", "error_over_nearest", "steps", "bits"]))
    print(f"saved {save('ada_round', results)}")


if __name__ == "__main__":
    main()
