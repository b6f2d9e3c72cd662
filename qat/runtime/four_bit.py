"""Which kernel multiplies 4-bit weights faster on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from qat.layer_recipe import LayerRecipe
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_, set_observing_
from qat.layers.swap import quantize_layer
from qat.runtime.export import trace
from qat.runtime.layers import replace_layers_
from qat.runtime.packing import name_nodes_, pack_low_bits_
from qat.runtime.session import open_engine

Kernel = Literal["matmul_nbits", "integer"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
WIDTHS = (
    (512, 512),
    (512, 2048),
    (2048, 512),
)  # projection and feed-forward of a Transformer between mini and base
FRAMES = 250  # five seconds of a Wav2Vec2
REPEATS = 7


@torch.no_grad()
def write_layers(kernel: Kernel, path: Path) -> None:
    """Export linear layers with 4-bit weights and 8-bit activations, of `WIDTHS` in a row, with random weights."""
    recipe = LayerRecipe(
        weight_bits=4, weight_observer="max", activation_observer="max", four_bit_linear=kernel
    )
    layers = nn.Sequential(*(quantize_layer(nn.Linear(*width), recipe) for width in WIDTHS)).eval()
    x = torch.randn(1, 20, WIDTHS[0][0])
    set_observing_(layers, True)
    layers(x)
    set_observing_(layers, False)
    calibrate_weights_(layers)
    finish_calibration_(layers)
    set_enabled_(layers, True)
    replace_layers_(layers, "integer")
    model = trace(layers, {"x": x}, ["y"])
    name_nodes_(model, [])
    pack_low_bits_(model)
    ir.save(model, path)


def kernel_times(threads: int = 1) -> dict[Kernel, float]:
    """Milliseconds of `FRAMES` frames through the same layers by each kernel: the least of some runs, in turns."""
    x = np.random.default_rng(0).standard_normal((1, FRAMES, WIDTHS[0][0]), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        engines = {}
        for kernel in KERNELS:
            path = Path(folder) / f"{kernel}.onnx"
            write_layers(kernel, path)
            engines[kernel] = open_engine(path, threads)
        found = dict.fromkeys(KERNELS, float("inf"))
        for _ in range(1 + REPEATS):  # the first warms up: the least is another one's
            for kernel, engine in engines.items():
                started = time.perf_counter()
                engine.run(None, {"x": x})
                found[kernel] = min(found[kernel], 1000 * (time.perf_counter() - started))
    return found


def faster(times: Mapping[Kernel, float]) -> Kernel:
    """The kernel that takes less time; of equals the one that computes as at 8 bits.

    >>> faster({"matmul_nbits": 2.0, "integer": 1.0}), faster({"matmul_nbits": 1.0, "integer": 1.5})
    ('integer', 'matmul_nbits')
    """
    return "matmul_nbits" if times["matmul_nbits"] < times["integer"] else "integer"
