"""The name that a mistyped one was meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name; empty where none is near.

    >>> did_you_mean("stocastic", ["deterministic", "stochastic"])
    "; did you mean 'stochastic'?"
    >>> did_you_mean("xyz", ["deterministic", "stochastic"])
    ''
    """
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def nearest_option(name: str, known: Iterable[str]) -> str | None:
    """The dotted option that `name` was meant to be: one of its group, of a group alike, or of any group.

    >>> known = ["run", "trainer", "qat.weight_bits", "qat.rounding"]
    >>> [nearest_option(name, known) for name in ("qat.weight_bit", "qta.rounding", "weight_bits", "frobnicate")]
    ['qat.weight_bits', 'qat.rounding', 'qat.weight_bits', None]
    >>> nearest_option("trainr.max_steps", known)
    'trainer.max_steps'
    """
    known = list(known)
    group, _, leaf = name.rpartition(".")
    same_group = {item.rpartition(".")[2]: item for item in known if item.rpartition(".")[0] == group}
    if near := get_close_matches(leaf, same_group, n=1):
        return same_group[near[0]]
    if group and (near := get_close_matches(group, {item.partition(".")[0] for item in known}, n=1)):
        return f"{near[0]}.{leaf}" if near[0] != group else None
    return next((item for item in known if item.rpartition(".")[2] == leaf), None)
