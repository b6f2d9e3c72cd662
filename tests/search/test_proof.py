"""A recipe counts once the whole of it is within its budget and dev shows no loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qat.runtime.export import ExportInfo
from qat.search import proof
from qat.search.choice import Solution, solve
from qat.search.options import SearchOptions
from qat.search.proof import Proof, Verified, prove, within_loss
from qat.search.workbench import Workbench
from qat.system.errors import UserError

GOOD = Proof(10.0, 10.0, {"mean": 0.0, "ci95": [-1, 1], "p_value": 1.0})
BAD = Proof(12.0, 10.0, {"mean": 2.0, "ci95": [1, 3], "p_value": 0.01})


def saying(*answers: Proof) -> Any:
    """A prover that gives these answers in turn."""
    left = iter(answers)
    return lambda path: next(left)


@pytest.fixture
def work(bench: Callable[..., Workbench], monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """A bench whose units lose 0.00005 each by frame and 0.1 static, and twice their sum together."""
    work = bench()
    for unit in work.units:
        work.store.losses[unit.name] = {"W8A8 static 99.99": 0.1, "W8A8 frame": 0.00005}

    def whole(work: Workbench, solution: Solution) -> Verified:
        return Verified(solution, work.module, 2 * solution.loss)

    monkeypatch.setattr(proof, "verified", whole)
    monkeypatch.setattr(proof, "exported", lambda module, place: ExportInfo(place, "integer", 0.0, "", 0))
    return work


def test_the_whole_is_within_the_budget_not_the_sum(work: Workbench) -> None:
    found = within_loss(work, 0.001)
    assert found is not None
    assert 0.0 < found.solution.loss <= 0.0005
    assert found.loss <= 0.001


def test_no_budget_leaves_float(work: Workbench) -> None:
    assert within_loss(work, 1e-9) is None


def test_the_budget_tightens_until_dev_shows_nothing(work: Workbench) -> None:
    found, said, rounds = prove(work, saying(BAD, BAD, GOOD), work.folder / "x.onnx")
    assert said == GOOD
    assert [item["budget"] for item in rounds] == [0.001, 0.0005, 0.00025]
    assert found.loss <= 0.00025


def test_a_loss_at_every_budget_is_said(work: Workbench) -> None:
    with pytest.raises(UserError, match="no quantized recipe is without a loss on dev"):
        prove(work, saying(*[BAD] * 9), work.folder / "x.onnx")


def test_a_machine_without_fast_integers_is_named(work: Workbench) -> None:
    for kernel, costs in work.store.costs.items():
        if kernel != "float":
            costs.ms.update(dict.fromkeys(work.layers, 30.0))
    with pytest.raises(UserError, match="no layer is faster on integers than in float on this machine"):
        prove(work, saying(GOOD), work.folder / "x.onnx")


def test_a_budget_below_every_choice_is_named(work: Workbench) -> None:
    work.options = SearchOptions(max_loss=1e-9)
    with pytest.raises(UserError, match="no quantized recipe is within 1e-09 nats per frame"):
        prove(work, saying(GOOD), work.folder / "x.onnx")


def test_least_loss_within_a_latency_counts_what_belongs_to_no_layer(work: Workbench) -> None:
    work.options = SearchOptions(max_latency=5.0 + 2.0 * len(work.layers))
    found, _, _ = prove(work, saying(BAD), work.folder / "x.onnx")
    assert found.solution.ms <= 2.0 * len(work.layers)
    work.options = SearchOptions(max_latency=4.0)
    with pytest.raises(UserError, match="no recipe is within"):
        prove(work, saying(GOOD), work.folder / "x.onnx")


def test_the_file_is_within_the_size_not_its_constants_alone(
    work: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Solution] = []

    def whole(work: Workbench, solution: Solution) -> Verified:
        made.append(solution)
        return Verified(solution, work.module, solution.loss)

    of_all = sum(work.weights[layer] for layer in work.layers)
    monkeypatch.setattr(proof, "verified", whole)

    def file_of(module: Any, place: Any) -> ExportInfo:
        return ExportInfo(place, "integer", (made[-1].bytes + work.rest[1] + 0.2 * of_all) / 1e6, "", 0)

    monkeypatch.setattr(proof, "exported", file_of)
    half = solve(work.prices(), "loss", {"bytes": 2 * of_all})
    limit = half.bytes + work.rest[1] + 0.1 * of_all  # of which the constants alone would be a part
    work.options = SearchOptions(max_size_mb=limit / 1e6)
    found, said, _ = prove(work, saying(BAD), work.folder / "x.onnx")
    assert said == BAD and found.solution is made[-1] and len(made) > 1
    sizes = [solution.bytes + work.rest[1] + 0.2 * of_all for solution in made]
    assert sizes[0] > limit >= sizes[-1]  # the first one would have made too large a file
    work.options = SearchOptions(max_size_mb=(1.1 * of_all + work.rest[1]) / 1e6)
    with pytest.raises(UserError, match="no recipe is within .* bytes"):
        prove(work, saying(GOOD), work.folder / "x.onnx")


@pytest.mark.parametrize(("mean", "p", "loss"), [(1.0, 0.01, True), (1.0, 0.2, False), (-1.0, 0.01, False)])
def test_only_what_is_worse_beyond_chance_is_a_loss(mean: float, p: float, loss: bool) -> None:
    assert Proof(1.0, 1.0, {"mean": mean, "ci95": [0, 1], "p_value": p}).shows_loss is loss
    assert not Proof(None, None, None).shows_loss
