"""Measure checkpoints, read audio with an exported file, run suites, compare runs."""

import sys

from qat.system.errors import UserError


def evaluate(args: list[str]) -> None:
    """Dispatch to the command named first."""
    from qat.cli import evaluate as commands

    commands.run(args)


if __name__ == "__main__":
    try:
        evaluate(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
