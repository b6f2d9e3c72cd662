"""Measure checkpoints, read audio with an exported file, run suites, compare runs."""

import sys

from qat.cli.ending import run_command


def evaluate(args: list[str]) -> None:
    """Dispatch to the command named first."""
    from qat.cli import evaluate as commands

    commands.run(args)


if __name__ == "__main__":
    run_command(evaluate, sys.argv[1:])
