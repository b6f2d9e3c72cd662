"""The commands of evaluate.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from datamodules.audio import load_audio
from qat.cli import DEFAULT_CONFIG
from qat.errors import UserError
from qat.report.evaluation import EvaluationOptions, report_checkpoint
from qat.runs import MODEL_FILE, build_data, find_checkpoint, read_config


class OneLineArguments(argparse.ArgumentParser):
    """A parser whose errors are one line with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `UserError`."""
        raise UserError(f"{self.prog}: {message}")


def parser() -> argparse.ArgumentParser:
    """Arguments of all commands."""
    root = OneLineArguments(prog="evaluate.py", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="export, measure and rebuild report.{json,md} and figures")
    report.add_argument(
        "targets", nargs="+", metavar="RUN|CKPT", help="run name, run folder or checkpoint file"
    )
    report.add_argument("--config", type=Path, help="configuration with the data (default: the run's own)")
    for field in fields(EvaluationOptions):
        if field.type in ("int", int):
            report.add_argument(
                f"--{field.name}", type=int, default=field.default, help="see train.py --help_all"
            )
    transcribe = commands.add_parser("transcribe", help="text from audio, with the integer file")
    transcribe.add_argument("target", metavar="RUN|CKPT", help="run name, run folder or checkpoint file")
    transcribe.add_argument("audio", nargs="+", type=Path, help="audio files (WAV, FLAC, Ogg Opus)")
    transcribe.add_argument("--threads", type=int, default=1, help="threads of the engine")
    return root


def run(args: Sequence[str]) -> None:
    """Parse and run one command."""
    options = parser().parse_args(args)
    if options.command == "report":
        chosen = {
            f.name: getattr(options, f.name) for f in fields(EvaluationOptions) if hasattr(options, f.name)
        }
        report(options.targets, options.config, EvaluationOptions(**chosen))
    else:
        transcribe(options.target, options.audio, options.threads)


def report(targets: Sequence[str], config: Path | None, options: EvaluationOptions) -> None:
    """Rebuild the report of each run or checkpoint.

    A run's report lies in its folder; a single checkpoint's in `report-NAME` beside it.
    """
    for checkpoint in [find_checkpoint(target) for target in targets]:
        settings = read_config(config_of(checkpoint, config))
        folder = checkpoint.parent
        if checkpoint.name != MODEL_FILE:
            folder = folder / f"report-{checkpoint.stem}"
            folder.mkdir(exist_ok=True)
        report_checkpoint(checkpoint, folder, build_data(settings), settings, options)


def config_of(checkpoint: Path, config: Path | None) -> Path:
    """The configuration that goes with a checkpoint: the given one, the run's own, or the default."""
    if config is not None:
        return config
    own = checkpoint.parent / "config.yaml"
    return own if own.is_file() else DEFAULT_CONFIG


def transcribe(target: str, files: Sequence[Path], threads: int) -> None:
    """Print `FILE<TAB>text` for each audio file, read with the exported integer file (exported when missing)."""
    from qat.runtime import Session

    signals = [load_audio(file) for file in files]  # bad audio is told before anything is built
    with_file = integer_file(find_checkpoint(target))
    session = Session(with_file, threads=threads)
    for file, signal in zip(files, signals, strict=True):
        print(f"{file}\t{session.transcribe(signal.numpy())}")


def integer_file(checkpoint: Path) -> Path:
    """The exported file of a checkpoint; a float checkpoint has a float file."""
    from qat.models import load_module
    from qat.runtime import export_onnx

    path = checkpoint.with_suffix(".onnx")
    if not path.is_file() or path.stat().st_mtime < checkpoint.stat().st_mtime:
        module = load_module(checkpoint)
        export_onnx(module, path, "integer" if module.recipe.active else "float")
    return path
