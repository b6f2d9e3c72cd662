"""The commands of evaluate.py; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from qat.cli.messages import refuse_option
from qat.decoding.options import DecodingOptions
from qat.decoding.windows import WINDOW_S
from qat.evaluation.options import EvaluationOptions
from qat.report.compare import LOWER_IS_BETTER
from qat.runtime.formats import ENGINES, FORMATS, PROVIDERS, Runner
from qat.search.options import BITS, SearchOptions
from qat.system.errors import UserError
from qat.system.nearest import did_you_mean


class OneLineArguments(argparse.ArgumentParser):
    """A parser whose errors are one line with exit status 2, naming the nearest command or choice."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `UserError`."""
        choice = re.fullmatch(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if choice is None:
            raise UserError(f"{self.prog}: {message}")
        known = [item.strip(" '") for item in choice[3].split(",")]
        near = did_you_mean(choice[2], known)
        raise UserError(f"{self.prog}: {choice[1]} {choice[2]!r} must be one of {', '.join(known)}{near}")

    def flags(self) -> list[str]:
        """The long flags that this parser takes, without dashes."""
        return re.findall(r"--([\w.-]+)", self.format_help())


def parser() -> argparse.ArgumentParser:
    """Arguments of all commands."""
    return parsers()[0]


def parsers() -> tuple[OneLineArguments, dict[str, OneLineArguments]]:
    """The parser of all commands, and each command's own."""
    root = OneLineArguments(
        prog="evaluate.py", description="Measure, transcribe, run suites and compare runs."
    )
    commands = root.add_subparsers(dest="command", required=True)
    add_report(commands.add_parser("report", help="export, measure and rebuild report.{json,md} and figures"))
    add_transcribe(commands.add_parser("transcribe", help="text from audio, with the integer file"))
    add_suite(commands.add_parser("suite", help="every row of a set of tables, restartable"))
    add_compare(commands.add_parser("compare", help="runs side by side, differences paired to the first"))
    add_search(commands.add_parser("search", help="find the recipe that loses nothing and is the fastest"))
    return root, dict(commands.choices)


def add_report(command: OneLineArguments) -> None:
    """Arguments of `report`."""
    command.add_argument(
        "targets", nargs="+", metavar="RUN|CKPT", help="run name, run folder or checkpoint file"
    )
    command.add_argument("--config", type=Path, help="configuration with the data (default: the run's own)")
    for field in fields(EvaluationOptions):
        if field.type in ("int", int):
            command.add_argument(
                f"--{field.name}", type=int, default=field.default, help="see train.py --help_all"
            )
    command.add_argument(
        "--beams",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help="a table of dev's WER and latency by beam",
    )
    add_engine(command)
    command.add_argument("--format", choices=FORMATS, help="of the integer files (default: the run's own)")
    add_decoding(command)


def add_engine(command: OneLineArguments) -> None:
    """What runs exported files."""
    command.add_argument(
        "--engine", choices=ENGINES, default=ENGINES[0], help="that runs the file (default onnxruntime)"
    )
    command.add_argument(
        "--provider",
        choices=PROVIDERS,
        default=PROVIDERS[0],
        help="of ONNX Runtime: cpu (default), or an NVIDIA GPU",
    )


def add_decoding(command: OneLineArguments) -> None:
    """Arguments that change the search of a model."""
    for field in fields(DecodingOptions):
        kind = str(field.type).partition(" ")[0]
        command.add_argument(
            f"--decoding.{field.name}",
            type=DECODING_KINDS[kind],
            metavar=kind.upper(),
            help="see train.py --help_all",
        )


def decoding_of(options: argparse.Namespace) -> DecodingOptions:
    """What `add_decoding`'s arguments say."""
    given = {field.name: getattr(options, f"decoding.{field.name}") for field in fields(DecodingOptions)}
    return DecodingOptions(**given)


def truth(text: str) -> bool:
    """`true` or `false`.

    Raises:
        ValueError: anything else.
    """
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def seed(text: str) -> int:
    """A whole number from 0.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 0")
    return int(text)


DECODING_KINDS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": truth, "Method": str}


def add_transcribe(command: OneLineArguments) -> None:
    """Arguments of `transcribe`."""
    command.add_argument(
        "target", metavar="RUN|CKPT|FOLDER", help="run name, run folder, checkpoint file or exported folder"
    )
    command.add_argument("audio", nargs="+", type=Path, help="audio files (WAV, FLAC, Ogg Opus)")
    command.add_argument("--threads", type=int, default=1, help="threads of the engine")
    command.add_argument(
        "--window_s",
        type=int,
        default=WINDOW_S,
        help=f"longer recordings are read in overlapping windows of this many seconds (default {WINDOW_S})",
    )
    add_engine(command)
    add_decoding(command)


def add_suite(command: OneLineArguments) -> None:
    """Arguments of `suite`."""
    command.add_argument("name", help="seed_tables, or a YAML file of your own")
    command.add_argument(
        "--quick", action="store_true", help="one seed, small budgets, part of the test sets"
    )
    command.add_argument("--jobs", type=int, default=2, help="runs at a time, which share the cores")
    command.add_argument(
        "--only", nargs="+", default=[], metavar="GLOB", help="rows to run, such as 'crdnn/adaround*'"
    )
    command.add_argument(
        "--config", nargs="+", default=[], metavar="MODEL=FILE", help="another configuration for a model"
    )
    command.add_argument("--out", type=Path, help="folder of rows and figures (default docs/results)")
    command.add_argument(
        "--render", action="store_true", help="run nothing, write the tables from stored rows"
    )
    command.add_argument("--wandb", action="store_true", help="upload the stored rows to Weights & Biases")


def add_compare(command: OneLineArguments) -> None:
    """Arguments of `compare`."""
    command.add_argument(
        "targets", nargs="+", metavar="RUN", help="run name, run folder, W&B id or W&B group"
    )
    command.add_argument(
        "--sort", choices=list(LOWER_IS_BETTER), default="wer", help="best first (default wer)"
    )
    command.add_argument("--format", choices=["md", "json", "csv"], default="md", help="what is printed")
    command.add_argument("--out", type=Path, help="folder of all formats and figures")
    command.add_argument("--seed", type=seed, default=0, help="of the bootstrap")
    command.add_argument(
        "--wandb",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="log the table to Weights & Biases",
    )


def add_search(command: OneLineArguments) -> None:
    """Arguments of `search`."""
    command.add_argument("target", metavar="RUN|CKPT", help="run name, run folder or checkpoint file")
    command.add_argument("--config", type=Path, help="configuration with the data (default: the run's own)")
    command.add_argument(
        "--out", type=Path, help="folder of the files (default: search/ beside the checkpoint)"
    )
    budgets = {
        "max_loss": "divergence of the posteriors, nats per frame: the fastest recipe within it",
        "max_latency": "milliseconds of an utterance: the recipe that loses least within it",
        "max_size_mb": "megabytes of the file: the recipe that loses least within it",
    }
    for name, text in budgets.items():
        command.add_argument(f"--{name}", type=float, help=text)
    default = SearchOptions()
    command.add_argument(
        "--bits", nargs="+", type=int, choices=BITS, default=default.bits, help="of weights that are tried"
    )
    for name, text in {
        "utterances": "of training, on which divergences are measured",
        "calibration_utterances": "of training, which calibrate the activations",
        "seed": "of the draw of utterances and of the bootstrap",
        "threads": "of the engine that is timed",
    }.items():
        value = getattr(default, name)
        command.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default {value})")


def parse(args: Sequence[str]) -> argparse.Namespace:
    """The parsed command.

    Raises:
        UserError: an unknown command, choice or flag, naming the nearest.
    """
    root, commands = parsers()
    options, unknown = root.parse_known_args(args)
    if unknown:
        refuse_unknown(unknown, options.command, commands[options.command].flags())
    return options


def refuse_unknown(unknown: Sequence[str], command: str, known: Iterable[str]) -> NoReturn:
    """Raise for arguments that a command does not take.

    Raises:
        UserError: always.
    """
    where = f"evaluate.py {command}: "
    flag = next((item.partition("=")[0] for item in unknown if item.startswith("-")), None)
    if flag is None:
        raise UserError(f"{where}{' '.join(unknown)!r} must belong to an option")
    refuse_option(flag, known, where)


def run(args: Sequence[str]) -> None:
    """Parse and run one command."""
    options = parse(args)
    if options.command == "report":
        from qat.cli.report import report

        names = [field.name for field in fields(EvaluationOptions) if hasattr(options, field.name)]
        chosen = {name: getattr(options, name) for name in names}
        report(
            options.targets,
            options.config,
            EvaluationOptions(**chosen),
            decoding_of(options),
            options.format,
        )
    elif options.command == "suite":
        from qat.cli.suite import suite

        suite(options)
    elif options.command == "compare":
        from qat.cli.compare import side_by_side

        side_by_side(options)
    elif options.command == "search":
        from qat.cli.search import search

        search(options)
    else:
        from qat.cli.transcribe import transcribe

        transcribe(
            options.target,
            options.audio,
            options.threads,
            decoding_of(options),
            options.window_s,
            Runner(options.engine, options.provider),
        )
