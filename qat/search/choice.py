"""Choosing a candidate for every unit: an integer program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from qat.system.errors import UserError

TIE = 1e-3  # weight of what is not asked for, as a share of the whole: of equals the smaller and better is taken
SIZE_WORTH = 0.1  # of the fastest: a hundredth of the time for a tenth of the bytes
UNITS = {"loss": "nats per frame", "ms": "ms", "bytes": "bytes"}


@dataclass(frozen=True)
class Price:
    """What a unit is as a candidate.

    Args:
        loss: divergence that it alone causes, nats per frame.
        ms: of an utterance.
        bytes: of its constants.
    """

    loss: float
    ms: float
    bytes: int


Prices = Mapping[str, Mapping[str, Price]]  # unit -> candidate -> price


@dataclass(frozen=True)
class Solution:
    """A choice and what it is expected to cost; shares of the units alone, not of what belongs to no layer.

    Args:
        choice: unit -> candidate.
        loss: sum over the units.
        ms: likewise.
        bytes: likewise.
    """

    choice: Mapping[str, str]
    loss: float
    ms: float
    bytes: int


def solve(prices: Prices, minimised: str, limits: Mapping[str, float]) -> Solution:
    """The choice with the least sum of one price within limits of others; of the fastest a smaller one that is as fast.

    Args:
        prices: of each unit's candidates.
        minimised: `loss`, `ms` or `bytes`.
        limits: price -> its largest sum.

    Raises:
        UserError: no choice is within the limits; says what the least is.
    """
    keys = [(unit, name) for unit, candidates in prices.items() for name in candidates]
    columns = {
        field: np.array([getattr(prices[unit][name], field) for unit, name in keys], float) for field in UNITS
    }
    scales = {field: max(scale_of(prices, field), 1e-12) for field in UNITS}
    weights = {field: 1.0 if field == minimised else TIE for field in UNITS}
    weights["bytes"] = SIZE_WORTH if minimised == "ms" else weights["bytes"]
    goal = sum(weights[field] * columns[field] / scales[field] for field in UNITS)
    one_each = np.array([[float(unit == key[0]) for key in keys] for unit in prices])
    rows = [LinearConstraint(one_each, 1, 1)]
    rows += [
        LinearConstraint(columns[field] / scales[field], ub=top / scales[field])
        for field, top in limits.items()
    ]
    found = milp(goal, integrality=np.ones(len(keys)), bounds=Bounds(0, 1), constraints=rows)
    if found.x is None:
        raise UserError(out_of_reach(prices, limits))
    return sum_of(
        prices, {unit: name for (unit, name), taken in zip(keys, found.x, strict=True) if taken > 0.5}
    )


def scale_of(prices: Prices, field: str) -> float:
    """What a price is a share of: the sum over the units' first candidates, float; of losses, of the largest."""
    if field == "loss":
        return sum(max(item.loss for item in unit.values()) for unit in prices.values())
    return float(sum(getattr(next(iter(unit.values())), field) for unit in prices.values()))


def sum_of(prices: Prices, choice: Mapping[str, str]) -> Solution:
    """A choice with the sums of its prices."""
    taken = [prices[unit][name] for unit, name in choice.items()]
    return Solution(
        dict(choice),
        sum(item.loss for item in taken),
        sum(item.ms for item in taken),
        sum(item.bytes for item in taken),
    )


def out_of_reach(prices: Prices, limits: Mapping[str, float]) -> str:
    """What is said of limits that no choice keeps."""
    parts = []
    for field, top in limits.items():
        least = sum(min(getattr(item, field) for item in unit.values()) for unit in prices.values())
        parts.append(f"{top:.4g} {UNITS[field]} (the least of all choices is {least:.4g})")
    return f"search: no recipe is within {' and '.join(parts)}; give a larger budget"


def pareto(prices: Prices, points: int = 16) -> list[Solution]:
    """The fastest choices by loss: from nothing lost to whatever is fastest of all."""
    fastest = solve(prices, "ms", {})
    least = solve(prices, "loss", {})
    low = max(least.loss, fastest.loss * 1e-3, 1e-9)
    budgets: Sequence[float] = [least.loss, *np.geomspace(low, max(fastest.loss, low), points)]
    found = {
        tuple(item.choice.items()): item for item in (solve(prices, "ms", {"loss": top}) for top in budgets)
    }
    return sorted(found.values(), key=lambda item: item.loss)
