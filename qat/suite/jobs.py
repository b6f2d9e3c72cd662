"""The runs of a suite: their commands, their folders, and the clean-up after a killed one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import psutil

from qat.evaluation.graphs import exports_in
from qat.runs import CHECKPOINTS, LAST_FILE, read_config, sha256_of_checkpoint, start_of
from qat.suite.spec import Suite, SuiteRow
from qat.system.errors import UserError
from qat.system.provenance import config_sha256

KEPT = (
    "model.ckpt",
    "model.onnx",
    "control.onnx",
    "model",
    "control",
)  # of the large files in a finished row's folder


@dataclass(frozen=True)
class Job:
    """One run of one row.

    Args:
        row: of the suite.
        seed: one of the row's.
        command: of the child process, without the interpreter.
        folder: run folder.
        sha256: of everything that decides the result; a stored run with the same one is not run again.
    """

    row: SuiteRow
    seed: int
    command: tuple[str, ...]
    folder: Path
    sha256: str

    @property
    def id(self) -> str:
        """`model/name/s1`."""
        return f"{self.row.id}/s{self.seed}"


def jobs_of(suite: Suite, folder: Path, quick: bool, only: Sequence[str] = ()) -> list[Job]:
    """All runs of the suite, first seeds first; with `only` those whose row id fits a glob, in the order of the globs.

    Raises:
        UserError: a glob fits no row.
    """
    chosen: dict[str, SuiteRow] = {}
    for glob in only or ["*"]:
        fitting = {row.id: row for row in suite.rows if fnmatchcase(row.id, glob)}
        if not fitting:
            raise UserError(f"--only {glob!r}: must fit a row; rows are named like {suite.rows[0].id}")
        chosen |= {name: row for name, row in fitting.items() if name not in chosen}
    inputs = {model: inputs_of(suite.configs[model]) for model in {row.model for row in chosen.values()}}
    rounds = 1 if quick else max(len(row.seeds) for row in chosen.values())
    return [
        make_job(suite, row, row.seeds[number], folder, quick, inputs[row.model])
        for number in range(rounds)
        for row in chosen.values()
        if number < len(row.seeds)
    ]


def inputs_of(config: Path) -> dict[str, Any]:
    """What every run of a model starts from: its configuration, and the digest of its float start, if that is here."""
    settings = read_config(config)
    name = start_of(settings)
    start = Path(name) if name else None
    known = {"start": sha256_of_checkpoint(start)} if start and start.exists() else {}
    return {"config": settings} | known


def make_job(
    suite: Suite, row: SuiteRow, seed: int, folder: Path, quick: bool, inputs: dict[str, Any]
) -> Job:
    """The command of one run."""
    place = folder / row.model / f"{row.name}-s{seed}"
    config = suite.configs[row.model]
    flags = [
        *("--config", str(config), *row.args, "--run", str(place)),
        *("--seed_everything", str(seed), "--qat.seed", str(seed)),
        *("--data.seed", str(seed - 1)),  # the first seed has the batches of a run by hand
        *("--wandb.enabled", "false", "--evaluation.twin", "false"),
        *(suite.quick if quick else ()),
    ]
    described = {**inputs, "flags": [flag for flag in flags if flag != str(place)]}
    command = ("train.py", *flags, "--evaluation.cache", str(folder / "float_cache"))
    return Job(row, seed, command, place, config_sha256(described))


def prepare_folder(job: Job) -> list[str]:
    """An empty run folder, or the flags that resume the same run where it was killed."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    end_orphan(job)
    mark = job.folder.with_suffix(".sha256")
    same = mark.is_file() and mark.read_text() == job.sha256
    if same and (job.folder / LAST_FILE).is_file() and not (job.folder / "report.json").is_file():
        return ["--ckpt_path", "last"]
    shutil.rmtree(job.folder, ignore_errors=True)
    mark.write_text(job.sha256)
    return []


def pid_file(job: Job) -> Path:
    """Where the number of the running process is kept."""
    return job.folder.with_suffix(".pid")


def end_orphan(job: Job) -> None:
    """End the process of a suite that was killed and could not end it."""
    path = pid_file(job)
    if not path.is_file():
        return
    try:
        process = psutil.Process(int(path.read_text()))
        if str(job.folder) in process.cmdline():
            process.terminate()
            process.wait(30)
    except (psutil.Error, ValueError):
        pass
    path.unlink(missing_ok=True)


def clean_folder(folder: Path) -> None:
    """Remove what can be made again: the float file or folder, and the checkpoints for resuming."""
    for path in [*folder.glob("*.ckpt"), *exports_in(folder)]:
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def last_line(log: Path) -> str:
    """The error line of a log, or its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    wrong = [line for line in lines if line.startswith("error: ") or "Error: " in line]
    return (wrong or lines or [""])[-1]


def suite_folder(suite: Suite, quick: bool) -> Path:
    """Where the runs of a suite lie."""
    return CHECKPOINTS / "suites" / (f"{suite.name}-quick" if quick else suite.name)
