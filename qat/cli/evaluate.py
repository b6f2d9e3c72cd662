"""The commands of evaluate.py."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from datamodules.audio import load_audio
from datamodules.build import build_data
from qat.cli.flags import DEFAULT_CONFIG
from qat.evaluation.options import EvaluationOptions
from qat.report.build import report_checkpoint
from qat.report.compare import LOWER_IS_BETTER, compare, read_run
from qat.report.compare_files import write_comparison
from qat.runs import CHECKPOINTS, MODEL_FILE, find_checkpoint, read_config
from qat.suite.jobs import jobs_of, suite_folder
from qat.suite.results import write_results
from qat.suite.runner import Runner
from qat.suite.spec import load_suite
from qat.suite.store import Results
from qat.suite.upload import upload_suite
from qat.system.errors import UserError
from qat.tracking.wandb_runs import find_runs, log_comparison

RESULTS_FOLDER = Path("docs/results")


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
    suite = commands.add_parser("suite", help="every row of a set of tables, restartable")
    suite.add_argument("name", help="seed_tables, or a YAML file of your own")
    suite.add_argument("--quick", action="store_true", help="one seed, small budgets, part of the test sets")
    suite.add_argument("--jobs", type=int, default=2, help="runs at a time, which share the cores")
    suite.add_argument(
        "--only", nargs="+", default=[], metavar="GLOB", help="rows to run, such as 'crdnn/adaround*'"
    )
    suite.add_argument(
        "--config", nargs="+", default=[], metavar="MODEL=FILE", help="another configuration for a model"
    )
    suite.add_argument("--out", type=Path, help="folder of rows and figures (default docs/results)")
    suite.add_argument("--render", action="store_true", help="run nothing, write the tables from stored rows")
    suite.add_argument("--wandb", action="store_true", help="upload the stored rows to Weights & Biases")
    side = commands.add_parser("compare", help="runs side by side, differences paired to the first")
    side.add_argument("targets", nargs="+", metavar="RUN", help="run name, run folder, W&B id or W&B group")
    side.add_argument("--sort", choices=list(LOWER_IS_BETTER), default="wer", help="best first (default wer)")
    side.add_argument("--format", choices=["md", "json", "csv"], default="md", help="what is printed")
    side.add_argument("--out", type=Path, help="folder of all formats and figures")
    side.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    side.add_argument(
        "--wandb",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="log the table to Weights & Biases",
    )
    return root


def run(args: Sequence[str]) -> None:
    """Parse and run one command."""
    options = parser().parse_args(args)
    if options.command == "report":
        chosen = {
            f.name: getattr(options, f.name) for f in fields(EvaluationOptions) if hasattr(options, f.name)
        }
        report(options.targets, options.config, EvaluationOptions(**chosen))
    elif options.command == "suite":
        suite(options)
    elif options.command == "compare":
        side_by_side(options)
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


def suite(options: argparse.Namespace) -> None:
    """Run what is missing of a suite, then write its tables; a failed run is an exit status of 1 at the end.

    Raises:
        UserError: bad arguments.
    """
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: allowed are integers from 1")
    pairs = [item.partition("=") for item in options.config]
    for model, equals, file in pairs:
        if not (equals and file):
            raise UserError(f"--config {model}: must be MODEL=FILE")
    chosen = load_suite(options.name, {model: file for model, _, file in pairs})
    work = suite_folder(chosen, options.quick)
    ours = not (options.quick or options.config or options.out or options.name.endswith((".yaml", ".yml")))
    folder = options.out or (RESULTS_FOLDER if ours else work)
    results = Results.load(folder, chosen.name)
    failures = 0
    stale = results.drop_stale(jobs_of(chosen, work, options.quick))
    if stale:
        print(f"suite: {stale} stored runs were made with other settings and are dropped", flush=True)
        results.save()
    if not options.render:
        jobs = jobs_of(chosen, work, options.quick, options.only)
        failures = Runner(results, options.jobs).run(jobs)
    if results.rows:
        path = Path("RESULTS.md") if ours else folder / "RESULTS.md"
        command = f"python evaluate.py suite {options.name}" + (" --quick" if options.quick else "")
        for written in write_results(chosen, results, path, command):
            print(f"wrote {written}", flush=True)
    if options.wandb:
        upload_suite(chosen, results, folder / "wandb")
    if failures:
        raise UserError(f"suite: {failures} runs failed; the log of each lies beside its folder in {work}")


def side_by_side(options: argparse.Namespace) -> None:
    """Compare runs: print in one format, write all of them and figures, log the table."""
    runs = [read_run(folder) for folder in find_runs(options.targets)]
    found = compare(runs, options.sort, options.seed)
    name = "--".join([run.name for run in runs][:2]) + (f"--and-{len(runs) - 2}" if len(runs) > 2 else "")
    folder = options.out or CHECKPOINTS / "comparisons" / name
    texts = write_comparison(found, folder)
    print(texts[options.format], end="")
    print(f"wrote {folder}/comparison.md, .json, .csv and figures", file=sys.stderr)
    if options.wandb:
        log_comparison(found, folder)


def config_of(checkpoint: Path, config: Path | None) -> Path:
    """The configuration that goes with a checkpoint: the given one, the run's own, or the default."""
    if config is not None:
        return config
    own = checkpoint.parent / "config.yaml"
    return own if own.is_file() else DEFAULT_CONFIG


def transcribe(target: str, files: Sequence[Path], threads: int) -> None:
    """Print `FILE<TAB>text` for each audio file, read with the exported integer file (exported when missing)."""
    from qat.runtime.session import Session

    signals = [load_audio(file) for file in files]  # bad audio is told before anything is built
    with_file = integer_file(find_checkpoint(target))
    session = Session(with_file, threads=threads)
    for file, signal in zip(files, signals, strict=True):
        print(f"{file}\t{session.transcribe(signal.numpy())}")


def integer_file(checkpoint: Path) -> Path:
    """The exported file of a checkpoint; a float checkpoint has a float file."""
    from qat.models.loading import load_module
    from qat.runtime.export import export_onnx

    path = checkpoint.with_suffix(".onnx")
    if not path.is_file() or path.stat().st_mtime < checkpoint.stat().st_mtime:
        module = load_module(checkpoint)
        export_onnx(module, path, "integer" if module.recipe.active else "float")
    return path
