"""AdaRound on the quadratic form of a row: against all roundings of tiny problems, and its parts one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from qat.numerics import ada_round
from qat.numerics.ada_round import (
    Problem,
    State,
    beta_at,
    hard_round,
    optimise,
    polish,
    rectified_sigmoid,
    regularizer,
    undecided,
)
from tests.pretend_gpu import PretendGPU


def make(
    outputs: int, inputs: int, bits: int, seed: int, groups: int = 1, frames: int = 200, offset: float = 0.0
) -> Problem:
    """Correlated inputs with a mean, disturbed as by a quantized prefix."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, frames, inputs, generator=generator)
    x = x @ torch.randn(groups, inputs, inputs, generator=generator) + 0.5
    error = 0.05 * torch.randn(groups, frames, inputs, generator=generator)
    weight = torch.randn(groups, outputs, inputs, generator=generator)
    top = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(2, keepdim=True) / (top + offset) * 0.8
    low = -top - (1 if offset else 0)
    disturbed = x + error
    gram = disturbed.transpose(1, 2) @ disturbed / frames
    cross = weight @ (error.transpose(1, 2) @ disturbed / frames)
    return Problem(weight, scale, low, top, gram, cross, offset)


def total(problem: Problem, up: Tensor) -> Tensor:
    return problem.row_errors(problem.change(up.float()))


def brute_force(problem: Problem) -> Tensor:
    """Least error of each row over all ways to round it."""
    inputs = problem.weight.shape[2]
    tried = [
        total(problem, torch.tensor(choice).expand_as(problem.weight))
        for choice in product((False, True), repeat=inputs)
    ]
    return torch.stack(tried).amin(0)


@pytest.mark.parametrize(("bits", "offset"), [(2, 0.0), (3, 0.0), (4, 0.0), (2, 0.5), (3, 0.5)])
def test_it_comes_close_to_the_best_of_all_roundings(bits: int, offset: float) -> None:
    """Four fifths of the gap between rounding to nearest and the optimum, over several problems; never beyond it."""
    gaps, left = 0.0, 0.0
    for seed in range(5):
        problem = make(4, 8, bits, seed, offset=offset)
        found = total(problem, optimise(problem, State(problem.first_variable()), 1000))
        best = brute_force(problem)
        assert bool((found >= best - 1e-9).all())
        gaps += float((total(problem, problem.nearest()) - best).sum())
        left += float((found - best).sum())
    assert left < 0.2 * gaps


def test_it_finds_the_optimum_where_weights_do_not_interact() -> None:
    """With a diagonal Gram matrix and no disturbance, nearest is best, and nothing may move away from it."""
    problem = make(4, 16, 4, 0)
    problem = replace(problem, gram=torch.eye(16)[None], cross=torch.zeros_like(problem.cross))
    state = State(problem.first_variable())
    up = optimise(problem, state, 300)
    assert torch.equal(problem.change(up.float()), problem.change(problem.nearest().float()))


@pytest.mark.parametrize("steps", [0, 50, 400])
def test_no_row_gets_worse_than_nearest(steps: int) -> None:
    problem = make(6, 20, 3, 5, groups=2)
    up = optimise(problem, State(problem.first_variable()), steps)
    assert bool((total(problem, up) <= total(problem, problem.nearest()) + 1e-9).all())
    assert bool((total(problem, up) < total(problem, problem.nearest())).any())


def test_groups_are_independent() -> None:
    problem = make(3, 10, 3, 7, groups=2)
    together = optimise(problem, State(problem.first_variable()), 150)
    for group in range(2):
        part = slice(group, group + 1)
        alone = replace(
            problem,
            weight=problem.weight[part],
            scale=problem.scale[part],
            gram=problem.gram[part],
            cross=problem.cross[part],
        )
        up = optimise(alone, State(alone.first_variable()), 150)
        assert torch.equal(up, together[part])


def test_polish_leaves_no_single_flip_that_helps() -> None:
    problem = make(3, 12, 3, 2)
    up = polish(problem, problem.nearest())
    reached = total(problem, up)
    for column in range(12):
        flipped = up.clone()
        flipped[..., column] ^= True
        assert bool((total(problem, flipped) >= reached - 1e-6).all())


def test_the_quadratic_form_is_the_error_of_the_outputs() -> None:
    """Row errors plus their constant equal the mean squared error on the very frames."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator)
    quantized = x + 0.1 * torch.randn(300, 6, generator=generator)
    weight = torch.randn(2, 6, generator=generator)
    scale, error = torch.full((1, 2, 6), 0.3), quantized - x
    gram, cross = (quantized.T @ quantized / 300)[None], weight[None] @ (error.T @ quantized / 300)[None]
    problem = Problem(weight[None], scale, -3, 3, gram, cross)
    change = problem.change(problem.nearest().float())
    direct = (quantized @ (weight + change[0]).T - x @ weight.T).square().mean(0)
    constant = (error @ weight.T).square().mean(0)
    torch.testing.assert_close(problem.row_errors(change)[0].float() + constant, direct)


def test_at_first_nothing_is_rounded() -> None:
    problem = make(3, 8, 8, 1)
    h = rectified_sigmoid(problem.first_variable())
    torch.testing.assert_close(h, problem.weight / problem.scale - problem.lower, atol=1e-5, rtol=0)


def test_hardened_levels_are_floor_or_ceiling_inside_the_range() -> None:
    problem = make(3, 8, 3, 1)
    for sign, expected in ((-1.0, problem.lower), (1.0, problem.lower + 1)):
        variable = sign * torch.ones_like(problem.weight)
        hard = hard_round(problem.weight, problem.scale, variable, -3, 3)
        assert torch.equal(hard, expected.clamp(-3, 3) * problem.scale)


def test_the_schedule_counts_actual_steps() -> None:
    """The regularizer starts after a fifth, its exponent falls from 20 to 2 and never rises."""
    betas = [beta_at(step, 100) for step in range(101)]
    assert betas[:20] == [None] * 20
    values = [beta for beta in betas if beta is not None]
    assert values[0] == 20.0 and values[-1] == 2.0 and len(values) == 81
    assert all(later <= sooner for sooner, later in zip(values, values[1:], strict=False))


def test_the_regularizer_falls_monotonically_as_beta_grows_soft_and_as_values_settle() -> None:
    h = torch.linspace(0, 1, 21)
    by_beta = [float(regularizer(h, beta)) for beta in (20.0, 10.0, 5.0, 2.0)]
    assert by_beta == sorted(by_beta, reverse=True)
    settling = [float(regularizer(torch.tensor([0.5 + shift]), 4.0)) for shift in (0.0, 0.2, 0.4, 0.5)]
    assert settling == sorted(settling, reverse=True) and settling[-1] == 0.0


def test_roundings_settle_along_the_schedule_and_then_it_stops_early() -> None:
    """After the warm start roundings settle until none is left open."""
    problem = make(4, 24, 8, 3)
    state = State(problem.first_variable())
    seen: list[tuple[int, int]] = []

    def look(state: State) -> None:
        seen.append((state.step, int(undecided(state.variable).sum())))

    optimise(problem, state, 3000, look)
    after_warm_start = [undecided for step, undecided in seen if step > 600]
    assert all(later <= sooner for sooner, later in zip(after_warm_start, after_warm_start[1:], strict=False))
    assert state.step < 3000
    assert not bool(undecided(state.variable).any())


def test_resuming_half_way_gives_the_same_bits() -> None:
    problem = make(4, 16, 3, 4)
    whole = State(problem.first_variable())
    expected = optimise(problem, whole, 450)

    class Stop(Exception):
        pass

    state = State(problem.first_variable())

    def interrupt(state: State) -> None:
        if state.step == 200:
            raise Stop

    with pytest.raises(Stop):
        optimise(problem, state, 450, interrupt)
    stored = State(state.variable.clone(), state.first.clone(), state.second.clone(), state.step)
    assert torch.equal(optimise(problem, stored, 450), expected)
    assert torch.equal(stored.variable, whole.variable)


def test_the_regularizer_decides() -> None:
    """Without it (lambda 0) values between two levels stay there."""
    problem = make(4, 16, 3, 6)
    state = State(problem.first_variable())
    original = ada_round.REGULARIZER
    ada_round.REGULARIZER = 0.0
    try:
        ada_round.descend_(problem, state, 800, None)
    finally:
        ada_round.REGULARIZER = original
    h = rectified_sigmoid(state.variable)
    assert int(((h > 0.01) & (h < 0.99)).sum()) > 5


def test_on_a_gpu_a_sweep_over_all_columns_is_read_once_and_finds_the_same() -> None:
    problem = make(4, 6, 3, seed=0)
    expected = polish(problem, problem.nearest(), sweeps=3)
    with PretendGPU() as gpu:
        parts = {name: getattr(problem, name).to("cuda") for name in ("weight", "scale", "gram", "cross")}
        there = replace(problem, **parts)
        found = polish(there, there.nearest(), sweeps=3)
        assert len(gpu.reads) <= 3 and torch.equal(found.cpu(), expected)
