"""Comparisons of a GPU with a CPU, each a command of its own for `benchmarks.gpu`; exit status 1 where they differ.

`python -m benchmarks.gpu_equal rounding --device cuda`; likewise `ranges MODEL OBSERVER`, `export CHECKPOINT FILE`,
`files FILE FILE` and `weights CHECKPOINT CHECKPOINT`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.gpu_pool import VALUES
from benchmarks.result_file import ROOT

LARGEST_DIFFERENCE = 1e-5  # of scales, relative
UTTERANCES = 16
Values = dict[str, Any]


def ranges(options: argparse.Namespace) -> tuple[bool, Values]:
    """Calibrate one float model on the CPU and on the device; scales may differ by float32 rounding."""
    model, observer = options.arguments
    ours, theirs = (calibrated(model, observer, device) for device in ("cpu", options.device))
    largest, name, zero_points = 0.0, "", 0
    for key, value in ours.items():
        other = theirs[key]
        if key.endswith("zero_point"):
            zero_points += int((value != other).sum())
        elif key.endswith("scale"):
            difference = float(((value - other).abs() / value.abs()).max())
            largest, name = max((largest, name), (difference, key))
    values = {"largest_relative_difference": largest, "where": name, "zero_points_that_differ": zero_points}
    return largest <= LARGEST_DIFFERENCE, values


def calibrated(model: str, observer: str, device: str) -> dict[str, Tensor]:
    """State of a shipped mini model after calibration on a device."""
    from benchmarks.common import PUBLISHED
    from datamodules.mini_corpus import MiniDataModule
    from qat.methods.calibrate import calibrate_
    from qat.recipe import Recipe

    settings = yaml.safe_load((ROOT / "configs" / f"mini_{model}.yaml").read_text())
    rules = (settings.get("qat") or {}).get("rules", [])
    chosen = {"preset": f"ptq_{observer}", "weight_observer": observer, "activation_observer": observer}
    recipe = Recipe.from_dict({**chosen, "rules": rules, "calibration_utterances": UTTERANCES})
    arguments = {key: value for key, value in settings["model"]["init_args"].items() if key != "teacher"}
    module = PUBLISHED[model][0](recipe=recipe, **arguments).eval()
    module.fold_batch_norm()
    print(calibrate_(module.to(device), MiniDataModule(max_train_utterances=64, num_workers=0)))
    return {key: value.cpu() for key, value in module.state_dict().items()}


def export(options: argparse.Namespace) -> tuple[bool, Values]:
    """Load a checkpoint onto the device and export it."""
    from qat.models.loading import load_module
    from qat.runtime.export import export_onnx

    checkpoint, path = options.arguments
    seen = torch.cuda.is_available()
    written = export_onnx(load_module(checkpoint).to(options.device), path, "integer")
    return True, {"sees_gpu" if seen else "sees_no_gpu": True, "sha256": written.sha256}


def files(options: argparse.Namespace) -> tuple[bool, Values]:
    """Whether two files hold the same bytes."""
    first, second = (Path(path).read_bytes() for path in options.arguments)
    differ = sum(one != two for one, two in zip(first, second, strict=False)) + abs(len(first) - len(second))
    return first == second, {"bytes": len(first), "bytes_that_differ": differ}


def weights(options: argparse.Namespace) -> tuple[bool, Values]:
    """Whether two checkpoints hold the same bits in weights, quantizers and optimiser."""
    first, second = (torch.load(path, "cpu", weights_only=True) for path in options.arguments)
    chosen = ("state_dict", "optimizer_states", "global_step")
    one, two = ({key: part[key] for key in chosen} for part in (first, second))
    different = [name for name, same in compared("", one, two) if not same]
    values = {"tensors_that_differ": len(different), "first": different[0] if different else ""}
    return not different, {**values, "steps": first["global_step"]}


def compared(name: str, one: Any, two: Any) -> list[tuple[str, bool]]:
    """(name, whether it is equal bit for bit) of every leaf of two nested values."""
    if isinstance(one, Tensor):
        alike = (one.dtype, one.shape) == (two.dtype, two.shape)
        return [(name, alike and torch.equal(bits_of(one), bits_of(two)))]
    if isinstance(one, dict):
        same = [(f"{name} (its keys)", list(one) == list(two))]
        return same + [
            item for key in one if key in two for item in compared(f"{name}.{key}", one[key], two[key])
        ]
    if isinstance(one, list | tuple):
        same = [(f"{name} (its length)", len(one) == len(two))]
        pairs = enumerate(zip(one, two, strict=False))
        return same + [item for index, pair in pairs for item in compared(f"{name}.{index}", *pair)]
    return [(name, one == two)]


def bits_of(x: Tensor) -> Tensor:
    """The bytes of a tensor on the CPU, so that NaN equals itself and 0 does not equal -0."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def rounding(options: argparse.Namespace) -> tuple[bool, Values]:
    """Fake quantization, its noise and its gradients on the device, bit for bit as the CPU's plain path."""
    if (
        options.device == "cpu"
    ):  # a rehearsal: the kernels run in Triton's interpreter, which asks when it is imported
        os.environ["TRITON_INTERPRET"] = "1"
    from benchmarks.gpu_rounding import compare_all

    return compare_all(options.device)


COMPARISONS: dict[str, Callable[[argparse.Namespace], tuple[bool, Values]]] = {
    "ranges": ranges,
    "export": export,
    "files": files,
    "weights": weights,
    "rounding": rounding,
}


def main() -> None:
    """Compare, print what was measured, and exit with 1 where it is not what it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=list(COMPARISONS))
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    os.chdir(ROOT)
    equal, values = COMPARISONS[options.what](options)
    print(VALUES + json.dumps(values))
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
