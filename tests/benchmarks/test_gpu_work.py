"""A step trains as training does, and what is measured of it is told."""

from __future__ import annotations

from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import torch

from benchmarks import gpu_work
from benchmarks.gpu_rows import COMPILED, FLOAT, FLOAT_AGAIN
from benchmarks.gpu_sizes import Size, batch_of, sizes, variant_of
from benchmarks.gpu_work import Work, measure, profiled
from qat.numerics import fused
from tests.pretend_gpu import PretendGPU

CPU = torch.device("cpu")
TINY = sizes(tiny=True)[1]


def work_of(variant: str) -> Work:
    return Work(variant_of(TINY.build(), variant, CPU), CPU)


def test_a_step_moves_the_weights_and_the_noise_and_leaves_no_gradient() -> None:
    work, batch = work_of("stochastic"), batch_of(2, 1.0, CPU)
    before = [parameter.clone() for parameter in work.module.parameters()]
    work.step(batch)
    work.step(batch)
    assert work.module.step_key.step == 2
    assert all(parameter.grad is None for parameter in work.module.parameters())
    moved = [not torch.equal(old, new) for old, new in zip(before, work.module.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


@pytest.mark.parametrize("size", sizes(tiny=True)[:2], ids=lambda size: size.name)
@pytest.mark.parametrize("variant", ["float", "stochastic"])
def test_on_a_gpu_everything_lies_there_and_no_step_waits_for_it(
    size: Size, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "applies", lambda x: False)  # Triton sees through the pretence
    monkeypatch.setattr(Work, "autocast", lambda self: nullcontext())
    monkeypatch.setattr(gpu_work, "adamw", lambda groups, rate, may_fuse: torch.optim.SGD(groups, rate))
    module = size.build()
    with PretendGPU() as gpu:
        work = Work(variant_of(module, variant, "cuda"), torch.device("cuda"))
        batch = batch_of(*size.batches[0], "cuda")
        gpu.reads.clear()
        work.step(batch)
        assert not gpu.reads
        work.module.eval()
        work.evaluate(batch)


def test_two_variants_draw_the_same_dropout() -> None:
    drawn = []
    for variant in ("float", "stochastic"):
        work = work_of(variant)
        work.index = 5
        work.step(batch_of(2, 1.0, CPU))
        work.module.on_train_batch_start(batch_of(2, 1.0, CPU), 5)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize(("variant", "more"), [(FLOAT, True), (FLOAT_AGAIN, False)])
def test_a_variant_is_asked_for_what_its_row_says(
    variant: str, more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_work, "launches_of", lambda work, device: (123, 4.5))
    work = work_of(FLOAT)
    values = measure(work, batch_of(1, 0.5, CPU), variant)
    assert len(values["step_times_ms"]) == gpu_work.STEPS and values["step_ms"] > 0
    assert ("launches" in values, "evaluation_ms" in values, "compiled" in values) == (more, more, False)
    assert work.module.training


def test_a_compiled_one_says_how_it_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_work, "launches_of", lambda work, device: (123, 4.5))
    work = work_of(FLOAT)
    work.module.compiled = Mock(**{"stop_.return_value": "compiled 3 parts into 2 graphs"})
    work.compile_s = 1.0
    values = measure(work, batch_of(1, 0.5, CPU), COMPILED[0])
    assert (values["compiled"], values["compile_s"]) == ("compiled 3 parts into 2 graphs", 1.0)
    assert "launches" in values and "evaluation_ms" not in values


def test_a_machine_that_refuses_its_profiler_still_has_times(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: object, device: object) -> None:
        raise RuntimeError("CUPTI is not there")

    monkeypatch.setattr(gpu_work, "launches_of", refuse)
    assert profiled(lambda: None, CPU) == {"launches": None, "kernel_ms": None}
