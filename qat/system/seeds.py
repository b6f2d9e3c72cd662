"""Seeds from keys: the same key gives the same seed in any process, at any time."""

from __future__ import annotations

import hashlib

_MASK = (1 << 64) - 1


def counter_seed(key: tuple[int, ...]) -> int:
    """Seed in [0, 2^63) from counters (splitmix64 over the parts; their order matters). For noise, drawn every step.

    >>> counter_seed((0, 1)) != counter_seed((1, 0))
    True
    """
    state = 0
    for part in key:
        state = (state + (part & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def hashed_seed(*key: int | str) -> int:
    """Seed in [-2^63, 2^63) from numbers and names (BLAKE2b), such as a split and the id of an utterance."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
