"""A search is asked one thing, in numbers that make sense."""

from __future__ import annotations

from typing import Any

import pytest

from qat.search.options import SearchOptions
from qat.system.errors import UserError


def test_no_budget_leaves_it_to_dev() -> None:
    assert (SearchOptions().budget, SearchOptions().limit) == ("max_loss", None)


def test_the_given_budget_counts() -> None:
    assert (SearchOptions(max_size_mb=1.5).budget, SearchOptions(max_size_mb=1.5).limit) == (
        "max_size_mb",
        1.5,
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_loss": 0.0}, "max_loss 0.0 must be a number above 0"),
        ({"max_latency": float("nan")}, "max_latency nan must be"),
        ({"max_loss": 1.0, "max_size_mb": 1.0}, "max_loss and max_size_mb must be one budget"),
        ({"bits": [5]}, "bits .5. must be some of 8, 4, 3, 2"),
        ({"bits": []}, "bits .. must be"),
        ({"utterances": 0}, "utterances 0 must be a whole number from 1"),
        ({"threads": 2**70}, "threads .* must be a whole number"),
    ],
)
def test_a_bad_value_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SearchOptions(**values)


def test_budgets_and_bits_do_not_make_measurements_old() -> None:
    assert SearchOptions(max_loss=0.1, bits=[8]).measured_by() == SearchOptions(max_latency=3).measured_by()
    assert SearchOptions(seed=1).measured_by() != SearchOptions().measured_by()
