"""The operator of compiled code computes what the plain path does, by the kernels as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qat.numerics import fused, traced
from qat.numerics.affine import fake_quantize
from qat.numerics.rounding import NoiseKey

KEY = NoiseKey.of(5, 6)
IN_TENSORS = NoiseKey(torch.tensor([KEY.seed]), torch.tensor([KEY.stream]))
CASES: dict[str, dict[str, Any]] = {
    "nearest": {},
    "stochastic": {"noise": True},
    "zero point": {"zero_point": torch.tensor([3], dtype=torch.int32), "low": 0, "high": 15, "noise": True},
    "channels": {"scale": torch.linspace(0.05, 0.2, 4), "axis": 0},
    "columns": {"scale": torch.linspace(0.05, 0.2, 50), "axis": 1},
    "covered": {"scale": torch.tensor([1.0]), "clips": False},
    "learned": {"learned": True, "noise": True},
    "learned channels": {"learned": True, "scale": torch.linspace(-0.2, 0.2, 4), "axis": 0},
}


def both(case: dict[str, Any]) -> list[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Values, and gradients of x and a learned scale, by the plain path and by the operator."""
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    found = []
    for compiled in (False, True):
        leaf = x.clone().requires_grad_()
        scale = case.get("scale", torch.tensor([0.1])).clone().requires_grad_("learned" in case)
        noise = None if "noise" not in case else IN_TENSORS if compiled else KEY
        levels = (case.get("low", -7), case.get("high", 7), case.get("axis"))
        work = traced.fake_quantize if compiled else fake_quantize
        out = work(leaf, scale, case.get("zero_point"), *levels, noise, None, case.get("clips", True))
        out.backward(torch.linspace(-1, 1, 200).view(4, 50))
        found.append((out.detach(), leaf.grad, scale.grad))
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("forced", [False, True], ids=["plain", "kernels"])
def test_values_and_gradients_are_those_of_the_plain_path(
    case: dict[str, Any], forced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:
        pytest.importorskip("triton")
        monkeypatch.setattr(fused, "FORCED", True)
    plain, compiled = both(case)
    assert torch.equal(compiled[0], plain[0]) and torch.equal(compiled[1], plain[1])  # type: ignore[arg-type]
    assert (plain[2] is None) == (compiled[2] is None)
    if plain[2] is not None and compiled[2] is not None:
        torch.testing.assert_close(compiled[2], plain[2], rtol=1e-4, atol=1e-6)  # sums in another order


@pytest.mark.parametrize("learned", [False, True])
def test_the_operator_keeps_its_promises_to_the_compiler(learned: bool) -> None:
    """Schema, fake tensors and autograd, as `torch.library.opcheck` examines them."""
    x = torch.randn(4, 50, requires_grad=True)
    scale = torch.tensor([0.1], requires_grad=learned)
    seed, stream = torch.tensor([KEY.seed]), torch.tensor([KEY.stream])
    args = (x, scale, None, seed, stream, -7, 7, None, None, learned, not learned, torch.float32)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(traced.quantize_operator, args, test_utils=checks)
