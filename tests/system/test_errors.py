"""The error that a user's input may cause."""

from __future__ import annotations

from qat.system.errors import UserError


def test_a_parser_takes_it_for_a_bad_value() -> None:
    """`argparse` and `jsonargparse` catch ValueError, and report what it says beside the flag."""
    assert issubclass(UserError, ValueError)
