"""The same key gives the same seed, another key another one."""

from __future__ import annotations

from qat.system.seeds import counter_seed, hashed_seed


def test_seeds_are_those_of_before() -> None:
    """Runs of before resume with the same noise."""
    assert (
        counter_seed((0, 1, 2, 3)) == 4258566918604784025
        and hashed_seed("test", "id-1", 7) == 6772775117372059758
    )


def test_seeds_differ_by_each_part_and_by_their_order() -> None:
    counted = {counter_seed(key) for key in ((0, 0), (0, 1), (1, 0), (1, 1), (0,), (-1, 0))}
    assert len(counted) == 6 and all(0 <= seed < 2**63 for seed in counted)
    hashed = {hashed_seed(*key) for key in (("a", 1), ("a", 2), (1, "a"), ("a1",), ("a", "1"))}
    assert len(hashed) == 5 and all(-(2**63) <= seed < 2**63 for seed in hashed)
