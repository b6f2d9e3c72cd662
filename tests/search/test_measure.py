"""What is known is not measured again."""

from __future__ import annotations

from collections.abc import Callable

from qat.search.measure import kernels_of, measure_costs, measure_losses
from qat.search.options import SearchOptions
from qat.search.workbench import Workbench


def test_one_file_is_exported_for_each_kernel(bench: Callable[..., Workbench]) -> None:
    assert list(kernels_of(bench())) == ["float", "static 8", "frame 8", "alone 8", "static 4"]
    assert list(kernels_of(bench(SearchOptions(bits=[8])))) == ["float", "static 8", "frame 8", "alone 8"]


def test_known_costs_are_not_measured(bench: Callable[..., Workbench]) -> None:
    assert measure_costs(bench()) == "costs of 5 kernels: measured before"


def test_each_unit_is_measured_once(bench: Callable[..., Workbench]) -> None:
    work = bench()
    said = measure_losses(work)
    assert said.startswith(
        f"divergences of {sum(map(len, work.store.losses.values()))} candidates (0 known before)"
    )
    head = work.store.losses["hf.lm_head"]
    assert 0 < head["W8A8 frame"] < 0.1
    assert set(work.store.losses) == {unit.name for unit in work.units}
    del work.store.losses["hf.lm_head"]["W8A8 frame"]
    assert measure_losses(work).startswith("divergences of 1 candidates")
