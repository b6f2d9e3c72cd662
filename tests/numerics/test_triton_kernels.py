"""The kernels compile for an H100 without one at hand; what they compute is tested in `test_fused.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")
SEEDS = {"seed_low": "i32", "seed_high": "i32", "stream": "i32"}
LEVELS = {"low": "fp32", "high": "fp32"}
WEIGHTS = {**LEVELS, "offset": "fp32", "least": "i32"}
ROWS = {"ROWS": 8, "WIDTH": 256}
# name -> types of its arguments and values of its constants, as a stochastic step in bfloat16 launches it
LAUNCHES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "values_forward": (
        {"x": "*bf16", "scale": "*fp32", "zero_point": "*i32", "out": "*bf16", "mask": "*u8", "count": "i32",
         "inner": "i32", **LEVELS, **SEEDS},
        {"PER_ROW": False, "ZERO": True, "STOCHASTIC": True, "LEARNED": False, "MASKED": True, "BLOCK": 2048},
    ),
    "values_backward": ({"grad": "*bf16", "mask": "*u8", "out": "*fp32", "count": "i32"}, {"BLOCK": 2048}),
    "learned_backward": (
        {"grad": "*bf16", "x": "*bf16", "scale": "*fp32", "zero_point": "*i32", "out": "*bf16",
         "partial": "*fp32", "count": "i32", "factor": "fp32", **LEVELS, **SEEDS},
        {"ZERO": True, "STOCHASTIC": True, "BLOCK": 2048},
    ),
    "weights_forward": (
        {"table": "*i64", "owner": "*i32", "out": "*bf16", **WEIGHTS, "seed_low": "i32", "seed_high": "i32"},
        {"FOLLOW": True, "STOCHASTIC": True, "HALF": True, "SELECT": True, "LEARNED": False, **ROWS},
    ),
    "weights_backward": (
        {"table": "*i64", "owner": "*i32", "factors": "*fp32", "grads": "*i64", "like": "*bf16", "out": "*fp32",
         "scale_grad": "*fp32", "first": "i32", "first_value": "i32", "first_row": "i32", **WEIGHTS,
         "seed_low": "i32", "seed_high": "i32"},
        {"STOCHASTIC": True, "SELECT": True, "LEARNED": True, **ROWS},
    ),
    "frames_forward": (
        {"x": "*bf16", "out": "*bf16", "rows": "i32", "inner": "i32", "levels": "fp32", **SEEDS},
        {"STOCHASTIC": True, **ROWS},
    ),
    "blocks_forward": (
        {"x": "*fp32", "out": "*bf16", "count": "i32", "inner": "i32", "each": "i32", "levels": "fp32"},
        {"SIZE": 64, "ROWS": 32},
    ),
}  # fmt: skip
PROGRAM = """
import json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from qat.numerics import triton_kernels
for name, (types, constants) in json.loads(sys.argv[1]).items():
    kernel = getattr(triton_kernels, name)
    names = kernel.arg_names
    assert sorted(names) == sorted([*types, *constants]), (name, names)
    signature = {item: types.get(item, "constexpr") for item in names}
    source = ASTSource(kernel, signature, {(names.index(item),): value for item, value in constants.items()})
    options = {"enable_fp_fusion": False, "num_warps": 4}
    code = compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm
    counts = {item: code["ptx"].count(item) for item in ("fma.rn.f32", "div.full.f32", "div.rn.f32")}
    print(json.dumps([name, len(code["cubin"]), counts]))
"""


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper_with_exact_division_and_no_fused_multiply_add(
    tmp_path: Path,
) -> None:
    """A multiply-add that rounds once, or an approximate division, would give other bits than the CPU."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(LAUNCHES)],
        capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in found] == list(LAUNCHES)
    for name, size, counts in found:
        assert size > 1000, name
        assert counts["fma.rn.f32"] == counts["div.full.f32"] == 0, name
        assert counts["div.rn.f32"] > 0 or name == "values_backward"


def test_every_kernel_is_tried() -> None:
    text = (ROOT / "qat/numerics/triton_kernels.py").read_text()
    kernels = {part.split("(")[0] for part in text.split("\ndef ")[1:]}
    helpers = {"mixed", "noise_bits", "clip", "nearest", "rounded", "positive", "slope_of_positive", "places"}
    assert kernels - helpers == set(LAUNCHES)
