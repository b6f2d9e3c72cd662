"""The best choice within a budget, checked against every choice there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qat.search.choice import Price, pareto, solve, sum_of
from qat.system.errors import UserError

PRICES = {
    "a": {"float": Price(0.0, 4.0, 400), "static": Price(0.1, 1.0, 100), "frame": Price(0.01, 2.0, 100)},
    "b": {"float": Price(0.0, 8.0, 800), "static": Price(0.02, 3.0, 200)},
}


def test_it_is_the_best_of_all_choices() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        prices = {
            f"u{unit}": {f"c{item}": Price(*rng.random(2), 9) for item in range(3)} for unit in range(4)
        }
        every = [
            sum_of(prices, dict(zip(prices, names, strict=True)))
            for names in itertools.product(*prices.values())
        ]
        budget = float(np.median([item.loss for item in every]))
        least = min(item.ms for item in every if item.loss <= budget)
        found = solve(prices, "ms", {"loss": budget})
        assert found.loss <= budget + 1e-9
        assert found.ms == pytest.approx(least, rel=2e-2)  # of equals, nearly, the smaller one


def test_a_little_time_is_given_for_many_bytes() -> None:
    prices = {
        "a": {"float": Price(0.0, 10.0, 400), "alone": Price(0.0, 10.2, 100), "slow": Price(0.0, 12.0, 90)}
    }
    assert solve(prices, "ms", {}).choice == {"a": "alone"}


def test_nothing_may_be_lost_without_a_budget_of_loss() -> None:
    assert solve(PRICES, "ms", {"loss": 0.0}).choice == {"a": "float", "b": "float"}


def test_more_loss_buys_time() -> None:
    assert solve(PRICES, "ms", {"loss": 0.03}).choice == {"a": "frame", "b": "static"}
    assert solve(PRICES, "ms", {}).choice == {"a": "static", "b": "static"}


def test_least_loss_within_time_and_within_bytes() -> None:
    assert solve(PRICES, "loss", {"ms": 7.0}).choice == {"a": "float", "b": "static"}
    assert solve(PRICES, "loss", {"bytes": 300}).choice == {"a": "frame", "b": "static"}


def test_a_budget_out_of_reach_says_the_least_there_is() -> None:
    with pytest.raises(UserError, match=r"no recipe is within 3 ms \(the least of all choices is 4\)"):
        solve(PRICES, "loss", {"ms": 3.0})


def test_the_curve_falls() -> None:
    curve = pareto(PRICES)
    assert curve[0].loss == 0.0
    assert [item.ms for item in curve] == sorted((item.ms for item in curve), reverse=True)
    assert curve[-1].ms == 4.0
