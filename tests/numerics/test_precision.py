"""Full precision is switched on for a while, whichever of PyTorch's switches were used before."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from qat.numerics.precision import full_precision

OLDER = {
    "nothing": "pass",
    "high": "torch.set_float32_matmul_precision('high')",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "high again": "torch.set_float32_matmul_precision('high')",
    "flags": "backends.cuda.matmul.allow_tf32 = True; backends.cudnn.allow_tf32 = False",
}
NEWER = {
    "one for all": "backends.fp32_precision = 'tf32'",
    "products": "backends.fp32_precision = 'none'; backends.cuda.matmul.fp32_precision = 'tf32'",
    "LSTMs": "backends.cudnn.rnn.fp32_precision = 'ieee'",
    "none of it": "backends.fp32_precision = 'ieee'",
}
PROGRAM = """
import torch
from torch import backends
from qat.numerics.precision import full_precision

def reading(read):
    try:
        return read()
    except RuntimeError:
        return "cannot be read"

def older():
    return [reading(read) for read in (
        torch.get_float32_matmul_precision, lambda: backends.cuda.matmul.allow_tf32, lambda: backends.cudnn.allow_tf32)]

def newer():
    places = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    return [place.fp32_precision.replace("none", "ieee") for place in places]  # the same of a single place

for setting in [*OLDER, *NEWER]:
    exec(setting)
    before = older(), newer()
    with full_precision():
        assert newer() == ["ieee"] * 3, (setting, newer())
        assert setting not in OLDER or older() == ["highest", False, False], (setting, older())
    assert (older(), newer()) == before, (setting, before, older(), newer())
"""


def test_tf32_is_off_inside_and_as_before_outside() -> None:
    settings = f"OLDER, NEWER = {list(OLDER.values())}, {list(NEWER.values())}\n"
    subprocess.run([sys.executable, "-c", settings + PROGRAM], check=True, timeout=60)


def test_settings_are_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), full_precision():
        assert not torch.backends.cudnn.allow_tf32
        _ = 1 / 0
    assert torch.backends.cudnn.allow_tf32


def test_autocast_is_off_inside() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision():
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
