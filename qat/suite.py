"""Runs every row of a suite of tables, one process each; finished rows are kept, so it can be stopped at any time."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from string import Template
from typing import Any

import psutil

from qat.errors import UserError
from qat.report.provenance import config_sha256, sha256_file, write_text
from qat.report.row import Row, load_report, save_report, validate_row
from qat.runs import CHECKPOINTS, read_config

ROOT = Path(__file__).resolve().parent.parent
SUITES = ROOT / "configs" / "suites"
KEPT = ("model.ckpt", "model.onnx", "control.onnx")  # of the large files in a finished row's folder
FLOAT = "float"
AIM_KINDS = ("insignificant", "relative", "recovers")


@dataclass(frozen=True)
class SuiteRow:
    """One row: a training command, run once a seed.

    Args:
        model: of the suite.
        name: unique in the model.
        title: what the tables call it.
        args: flags of train.py behind `--config`.
        seeds: of training and calibration.
    """

    model: str
    name: str
    title: str
    args: tuple[str, ...]
    seeds: tuple[int, ...] = (1,)

    @property
    def id(self) -> str:
        """`model/name`, the report's `suite_row`."""
        return f"{self.model}/{self.name}"


@dataclass(frozen=True)
class Published:
    """One row of a published table, and the rows of ours that answer it.

    Args:
        name: as published; empty for a row that only we have.
        wer: published error rate, percent; None where there was none.
        time_s: published seconds.
        rows: names in the suite.
    """

    name: str
    rows: tuple[str, ...]
    wer: float | None = None
    time_s: float | None = None


@dataclass(frozen=True)
class SuiteTable:
    """One table of the document.

    Args:
        heading: number and title.
        model: of the suite.
        rows: in the published order.
    """

    heading: str
    model: str
    rows: tuple[Published, ...]


@dataclass(frozen=True)
class Aim:
    """One thing that the suite is to show, for each model that has the rows; judged on the first split.

    Args:
        text: what.
        rows: row names; the best of them counts.
        kind: `insignificant` (difference to float), `relative` (loss over float at most `limit`), or `recovers` (the
            first row at least the share `limit` of what the second loses).
        limit: a share.
    """

    text: str
    rows: tuple[str, ...]
    kind: str
    limit: float = 0.0


@dataclass(frozen=True)
class Suite:
    """What a suite file says.

    Args:
        name: of the file.
        title: of the results.
        configs: model -> configuration file.
        rows: all rows, models in turn.
        tables: which rows fill them.
        curves: method -> row names by falling bits, for figures and the table of bits; a name may lack in a model.
        aims: what the results are held against.
        quick: flags that make every run small.
    """

    name: str
    title: str
    configs: Mapping[str, Path]
    rows: tuple[SuiteRow, ...]
    tables: tuple[SuiteTable, ...]
    curves: Mapping[str, tuple[str, ...]]
    aims: tuple[Aim, ...] = ()
    quick: tuple[str, ...] = ()

    def row(self, row_id: str) -> SuiteRow:
        """The row `model/name`."""
        return next(row for row in self.rows if row.id == row_id)


@dataclass(frozen=True)
class Job:
    """One run of one row.

    Args:
        row: what.
        seed: of it.
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


def suite_names() -> list[str]:
    """Suites that ship."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name: str, configs: Mapping[str, str] | None = None) -> Suite:
    """Read a suite by name or path.

    Args:
        name: of a shipped suite, or a YAML file.
        configs: model -> configuration file in place of the suite's.

    Raises:
        UserError: no such suite, an unknown model, or a table that names a row that is not there.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"suite {name!r}: neither one of {', '.join(suite_names())} nor a YAML file")
    content = read_config(path)
    for key in ("models", "rows", "tables"):
        if not content.get(key):
            raise UserError(f"{path}: {key} is missing or empty")
    for model in configs or {}:
        if model not in content["models"]:
            raise UserError(f"--config {model}: the suite's models are {', '.join(content['models'])}")
    files = {model: str((configs or {}).get(model, file)) for model, file in content["models"].items()}
    words = {
        model: {**(content.get("words") or {}), "start": shlex.quote(start_of(Path(files[model])))}
        for model in files
    }
    rows = [
        SuiteRow(
            model,
            row_name,
            str(values.get("title", row_name)),
            tuple(shlex.split(Template(values["args"]).safe_substitute(words[model]))),
            tuple(values.get("seeds", (1,))),
        )
        for model, described in content["rows"].items()
        for row_name, values in described.items()
    ]
    suite = Suite(
        name=path.stem,
        title=str(content.get("title", path.stem)),
        configs={model: Path(file) for model, file in files.items()},
        rows=tuple(rows),
        tables=tuple(_table(item) for item in content["tables"]),
        curves={method: tuple(names) for method, names in (content.get("curves") or {}).items()},
        aims=tuple(Aim(**{**item, "rows": tuple(item["rows"])}) for item in content.get("aims") or []),
        quick=tuple(shlex.split(content.get("quick", ""))),
    )
    check_names(suite, path)
    return suite


def start_of(config: Path) -> str:
    """The float checkpoint that a configuration starts from; empty where it names none."""
    model = read_config(config).get("model") or {}
    return str((model.get("init_args") or {}).get("init_from") or "")


def _table(item: Mapping[str, Any]) -> SuiteTable:
    rows = [
        Published(str(line.get("published", "")), tuple(line["rows"]), line.get("wer"), line.get("time_s"))
        for line in item["rows"]
    ]
    return SuiteTable(str(item["heading"]), str(item["model"]), tuple(rows))


def check_names(suite: Suite, path: Path) -> None:
    """Every table names a model and rows that exist; every configuration is there.

    Raises:
        UserError: naming the first that is not.
    """
    known = {row.id for row in suite.rows} | {f"{model}/{FLOAT}" for model in suite.configs}
    for table in suite.tables:
        if table.model not in suite.configs:
            raise UserError(f"{path}: table {table.heading!r}: unknown model {table.model!r}")
        for line in table.rows:
            for name in line.rows:
                if f"{table.model}/{name}" not in known:
                    raise UserError(f"{path}: table {table.heading!r}: no row {name!r} of {table.model}")
    for aim in suite.aims:
        if aim.kind not in AIM_KINDS:
            raise UserError(
                f"{path}: aim {aim.text!r}: kind {aim.kind!r} is not one of {', '.join(AIM_KINDS)}"
            )
        for name in aim.rows:
            if not any(row.name == name for row in suite.rows):
                raise UserError(f"{path}: aim {aim.text!r}: no model has a row {name!r}")
    for row in suite.rows:
        if row.model not in suite.configs:
            raise UserError(f"{path}: rows of {row.model!r}, which is not among the models")
    for file in suite.configs.values():
        read_config(file)


def jobs_of(suite: Suite, folder: Path, quick: bool, only: Sequence[str] = ()) -> list[Job]:
    """All runs of the suite, first seeds first; with `only` those whose row id fits a glob, in the order of the globs.

    Raises:
        UserError: a glob fits no row.
    """
    chosen: dict[str, SuiteRow] = {}
    for glob in only or ["*"]:
        fitting = {row.id: row for row in suite.rows if fnmatchcase(row.id, glob)}
        if not fitting:
            raise UserError(f"--only {glob!r}: fits no row; rows are named like {suite.rows[0].id}")
        chosen |= {name: row for name, row in fitting.items() if name not in chosen}
    rounds = 1 if quick else max(len(row.seeds) for row in chosen.values())
    return [
        make_job(suite, row, row.seeds[number], folder, quick)
        for number in range(rounds)
        for row in chosen.values()
        if number < len(row.seeds)
    ]


def make_job(suite: Suite, row: SuiteRow, seed: int, folder: Path, quick: bool) -> Job:
    """The command of one run."""
    place = folder / row.model / f"{row.name}-s{seed}"
    config = suite.configs[row.model]
    flags = [
        *("--config", str(config), *row.args, "--run", str(place)),
        *("--seed_everything", str(seed), "--qat.seed", str(seed)),
        *("--wandb.enabled", "false", "--evaluation.twin", "false"),
        *(suite.quick if quick else ()),
    ]
    described: dict[str, Any] = {"flags": [flag for flag in flags if flag != str(place)]}
    described["config"], start = read_config(config), start_of(config)
    if start and Path(start).is_file():
        described["start"] = sha256_file(start)
    command = ("train.py", *flags, "--evaluation.cache", str(folder / "heard"))
    return Job(row, seed, command, place, config_sha256(described))


@dataclass
class Results:
    """What was measured so far, on disk after every run.

    Args:
        folder: of `NAME.json` (report rows), `NAME_runs.json` (state of each run) and `NAME_errors.json` (word errors
            of each utterance).
        name: of the suite.
    """

    folder: Path
    name: str
    rows: list[Row] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, name: str) -> Results:
        """What is stored, or nothing yet.

        Raises:
            UserError: a file that is not ours.
        """
        results = cls(folder, name)
        if results.path("").is_file():
            results.rows = load_report(results.path(""))
        for suffix in ("runs", "errors"):
            if (path := results.path(f"_{suffix}")).is_file():
                try:
                    setattr(results, suffix, json.loads(path.read_text()))
                except ValueError as error:
                    raise UserError(f"{path}: not JSON ({error})") from None
        return results

    def path(self, suffix: str) -> Path:
        """`NAME{suffix}.json`."""
        return self.folder / f"{self.name}{suffix}.json"

    def save(self) -> None:
        """Write all three, each whole or not at all; the states last, so that a run counts once its rows are there."""
        save_report(self.path(""), self.rows)
        for suffix, content in (("errors", self.errors), ("runs", self.runs)):
            lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
            write_text(self.path(f"_{suffix}"), "{\n" + lines + "\n}\n")

    def done(self, job: Job) -> bool:
        """Whether this very run is stored."""
        found = self.runs.get(job.id, {})
        return found.get("status") == "done" and found.get("sha256") == job.sha256

    def add(self, job: Job, minutes: float) -> list[Row]:
        """Take over a finished run from its folder; its rows."""
        report = load_report(job.folder / "report.json")
        counts = json.loads((job.folder / "errors.json").read_text())
        mine = [dict(row) for row in report if row["method"] not in (FLOAT, "ptq")]
        for row in mine:
            row["suite_row"] = job.row.id
        kept = [
            row for row in self.rows if not (row["suite_row"] == job.row.id and row["run"] == mine[0]["run"])
        ]
        base = f"{job.row.model}/{FLOAT}"
        if not any(row["suite_row"] == base for row in kept):
            kept += [{**row, "suite_row": base} for row in report if row["method"] == FLOAT]
        self.rows = [*kept, *mine]
        for row in self.rows:
            validate_row(row, job.id)
        names = [name for name in counts if name not in ("words", FLOAT, "ptq")]
        self.errors[f"{job.row.model}/words"] = counts["words"]
        self.errors[base] = counts[FLOAT]
        self.errors[job.id] = counts[names[0]]
        self.runs[job.id] = {"status": "done", "sha256": job.sha256, "minutes": round(minutes, 2)}
        return mine

    def fail(self, job: Job, reason: str, minutes: float) -> None:
        """Remember that a run failed and why."""
        self.runs[job.id] = {
            "status": "failed",
            "sha256": job.sha256,
            "error": reason,
            "minutes": round(minutes, 2),
        }


class Runner:
    """Runs the jobs that are not done, several at a time.

    Args:
        results: kept after every run.
        parallel: processes at a time; the cores are shared out among them.
    """

    def __init__(self, results: Results, parallel: int) -> None:
        self.results, self.parallel = results, parallel
        self.lock = threading.Lock()
        self.children: set[subprocess.Popen[str]] = set()
        self.stopping = False

    def run(self, jobs: Sequence[Job]) -> int:
        """Run what is missing; the number of failures. A signal stops the children and ends the suite."""
        missing = [job for job in jobs if not self.results.done(job)]
        print(f"suite: {len(jobs)} runs, {len(jobs) - len(missing)} done already", flush=True)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        started, finished, failures = time.time(), 0, 0
        with ThreadPoolExecutor(self.parallel) as pool:
            waiting: set[Future[str]] = {pool.submit(self.run_job, job) for job in missing}
            try:
                while waiting:
                    ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for item in ready:
                        finished += 1
                        line = item.result()
                        failures += line.startswith("failed")
                        left = (time.time() - started) / finished * len(waiting) / 60
                        print(f"[{finished}/{len(missing)}] {line}; about {left:.0f} min left", flush=True)
            except KeyboardInterrupt:
                self.stop(waiting)
                raise UserError("suite: stopped; run it again to go on where it was") from None
        return failures

    def stop(self, waiting: Iterable[Future[str]]) -> None:
        """End children and what was not begun."""
        self.stopping = True
        for item in waiting:
            item.cancel()
        for child in list(self.children):
            child.terminate()

    def run_job(self, job: Job) -> str:
        """Run one job in a process of its own and store what came of it; one line about it."""
        if self.stopping:
            return f"{job.id}: not begun"
        started = time.time()
        command = [*job.command, *prepare_folder(job)]
        log = job.folder.with_suffix(".log")
        cores = os.cpu_count() or 1
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // self.parallel))}
        with log.open("w") as output:
            child = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.children.add(child)
            pid_file(job).write_text(str(child.pid))
            code = child.wait()
            self.children.discard(child)
        pid_file(job).unlink(missing_ok=True)
        minutes = (time.time() - started) / 60
        if self.stopping:
            return f"{job.id}: stopped"
        with self.lock:
            try:
                if code:
                    raise UserError(last_line(log) or f"exit status {code}")
                rows = self.results.add(job, minutes)
            except (UserError, OSError, KeyError, IndexError) as error:
                self.results.fail(job, str(error)[:300], minutes)
                self.results.save()
                return f"failed: {job.id}: {str(error)[:200]}"
            self.results.save()
        clean_folder(job.folder)
        first = rows[0]
        return (
            f"{job.id}: {first['split']} WER {first['wer']:.2f} % "
            f"({first['delta_wer_vs_float']['mean']:+.2f}), {minutes:.1f} min"
        )


def prepare_folder(job: Job) -> list[str]:
    """An empty run folder, or the flags that resume the same run where it was killed."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    end_orphan(job)
    mark = job.folder.with_suffix(".sha256")
    same = mark.is_file() and mark.read_text() == job.sha256
    if same and (job.folder / "last.ckpt").is_file() and not (job.folder / "report.json").is_file():
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
    """Remove what can be made again: the float file, and checkpoints for resuming."""
    for path in [*folder.glob("*.ckpt"), *folder.glob("*.onnx")]:
        if path.name not in KEPT:
            path.unlink()


def last_line(log: Path) -> str:
    """The error line of a log, or its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    wrong = [line for line in lines if line.startswith("error: ") or "Error: " in line]
    return (wrong or lines or [""])[-1]


def suite_folder(suite: Suite, quick: bool) -> Path:
    """Where the runs of a suite lie."""
    return CHECKPOINTS / "suites" / (f"{suite.name}-quick" if quick else suite.name)
