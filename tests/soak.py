"""Short runs that are killed at random moments, resumed to the end, and compared bit for bit.

`python -m tests.soak --count 100 --seed 1 --out FOLDER` goes on where it was stopped, and writes `soak.json` there.

Each run is train.py of a tiny CRDNN or Wav2Vec2, in one process or in two (gloo). Moments come from the seed alone,
evenly over the time that an uninterrupted run takes; some runs are killed a second time while they resume. Resuming is
what docs/training.md says: the same command with `--ckpt_path last`, without it where no checkpoint was written yet,
or `evaluate.py report` where training had ended.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing.connection
import os
import random
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from benchmarks.result_file import save
from qat.models.loading import save_module
from qat.runs import LAST_FILE, MODEL_FILE, PTQ_FILE, REPORT_FILE
from qat.system.files import write_text
from qat.system.provenance import git_commit
from tests.conftest import TINY_WAV2VEC2, build, write_config, write_corpus
from tests.processes import CONTEXT, PRELOADED, finish, start
from tests.soak_compare import differences
from tests.test_invariants import MASKED

SHAPES: dict[str, dict[str, Any]] = {  # smaller yet than those of the tests: exporting takes most of a run
    "crdnn": {"cnn_channels": [4], "cnn_pooling": [2], "rnn_layers": 1, "dnn_blocks": 1},
    "wav2vec2": {"config": {**TINY_WAV2VEC2["config"], "num_hidden_layers": 1}},
}
LOW_BIT = ("--qat.ada_round_steps", "30", "--qat.reconstruction_utterances", "4", "--qat.weight_bits", "4")
PRESETS = {"deterministic": (), "stochastic": (), "low_bit": LOW_BIT, "ptq_max": ()}
REPORTED = "ptq_max"  # only its runs end with a report: an export takes far longer than all else of such runs
LONGEST_S = 900.0  # a run that takes longer hangs
SLOW_IMPORTS = ("qat.report.build", "qat.runtime.export", "onnxscript", "matplotlib.pyplot", "onnxruntime")
SECOND_KILLS = 0.5  # share of the runs
ALONE = 0.5  # share of the kills that hit one of two processes; the other is told to end, as torchrun does
PATIENCE_S = 10.0
BY_REPORT = 0.5  # share of the kills after training that `evaluate.py report` follows


@dataclass(frozen=True)
class Setup:
    """A kind of run: model, preset and number of processes."""

    model: str
    preset: str
    processes: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.model}-{self.preset}-{self.processes}"


SETUPS = [  # each model with each preset, and each of both in one process and in two
    Setup(model, preset, 1 + (row + column) % 2)
    for row, model in enumerate(SHAPES)
    for column, preset in enumerate(PRESETS)
]

ORDER = [setup for setup in SETUPS if setup.preset != REPORTED] * 2 + [
    setup for setup in SETUPS if setup.preset == REPORTED
]


@dataclass
class Kill:
    """One kill, and how the run ended.

    Args:
        number: of the run.
        setup: name of its kind.
        moment_s: seconds from the start of the process to the kill.
        phase: what was under way; `ended` where the run was faster.
        resumed_by: what was called afterwards.
        wrong: what differs at the end.
    """

    number: int
    setup: str
    moment_s: float
    phase: str
    resumed_by: str = ""
    wrong: list[str] | None = None


def write_run(setup: Setup, folder: Path) -> list[str]:
    """Corpus and configuration of a kind of run in an empty folder; the flags of train.py."""
    path = write_config(setup.model, folder, write_corpus(folder))
    content = yaml.safe_load(path.read_text())
    arguments = content["model"]["init_args"]
    arguments.update(SHAPES[setup.model])
    save_module(build(setup.model, **SHAPES[setup.model]), Path(arguments["init_from"]))
    for key, value in MASKED[setup.model].items():
        arguments[key] = {**arguments[key], **value} if isinstance(value, dict) else value
    if setup.processes > 1 and setup.model == "wav2vec2":
        arguments["config"] = {**arguments["config"], "layerdrop": 0.0}  # DDP needs a gradient of every layer
    arguments["learning_rate"] = 0.01
    content["data"]["init_args"] |= {"max_batch_s": 3.0, "augment": True}
    content["trainer"] |= {"max_epochs": 2, "num_sanity_val_steps": 0}
    content |= {"save_every_steps": 2, "wandb": {"enabled": False}}
    content["evaluation"] = {"repeats": 1, "warmup": 0, "variants": False, "cache": str(folder / "cache")}
    content["evaluation"]["enabled"] = setup.preset == REPORTED
    path.write_text(yaml.safe_dump(content))
    return [
        "--config",
        str(path),
        "--run",
        str(folder / "run"),
        "--qat",
        setup.preset,
        *PRESETS[setup.preset],
    ]


def run_whole(setup: Setup, folder: Path) -> tuple[list[str], float]:
    """Flags and seconds of an uninterrupted run, which is made once for a commit and kept as `folder/whole`."""
    known = folder / "whole.json"
    if not known.is_file() or json.loads(known.read_text()).get("commit") != git_commit():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        flags = write_run(setup, folder)
        finish(start(["-h"], folder / "whole.log"))  # the server imports all that runs need
        start_s = time.monotonic()
        statuses = finish(start(flags, folder / "whole.log", setup.processes), LONGEST_S)
        seconds = time.monotonic() - start_s
        if any(statuses):
            sys.exit(f"{folder}/whole.log: an uninterrupted run ended with {statuses}")
        (folder / "run").rename(folder / "whole")
        write_text(known, json.dumps({"flags": flags, "seconds": seconds, "commit": git_commit()}))
    stored = json.loads(known.read_text())
    return stored["flags"], stored["seconds"]


def phase_of(run: Path, log: Path) -> str:
    """What a run was doing, as far as its folder and its log say."""
    if half := sorted(path.name for path in run.glob(".*.part")):
        return f"saving {half[0].split('.')[1]}.{half[0].split('.')[2]}"
    said = log.read_text(errors="replace") if log.is_file() else ""
    if (run / REPORT_FILE).is_file():
        return "ending"
    if (run / MODEL_FILE).is_file():
        return (
            "timing" if "\ntiming " in said else "transcribing" if "\ntranscribing " in said else "exporting"
        )
    if not (run / LAST_FILE).is_file():
        return "starting"
    if not (run / PTQ_FILE).is_file():
        return "calibrating"
    if "low_bit" in str(run) and "AdaRound:" not in said:
        return "AdaRound"
    return "training"


def kill(started: Sequence[BaseProcess], chosen: Sequence[int]) -> None:
    """Kill the chosen processes; the others are told to end, as torchrun does."""
    for rank in chosen:
        started[rank].kill()
    for rank, process in enumerate(started):
        if rank not in chosen and process.is_alive():
            os.kill(process.pid or 0, signal.SIGTERM)
    for process in started:
        process.join(PATIENCE_S)
        process.kill()
        process.join()


def how_to_resume(flags: list[str], run: Path, by_report: bool) -> tuple[str, list[str]]:
    """Program and arguments that finish a killed run; a report alone where training has ended and it is chosen."""
    if by_report and (run / MODEL_FILE).is_file():
        return "evaluate", ["report", str(run), "--repeats", "1", "--warmup", "0"]
    return "train", [*flags, *(["--ckpt_path", "last"] if (run / LAST_FILE).is_file() else [])]


def attempt(setup: Setup, folder: Path, number: int, draw: random.Random) -> list[Kill]:
    """Run, kill once or twice, resume to the end, compare; the last kill says what is wrong.

    Args:
        setup: kind of run.
        folder: of its kind, where it is kept under another name where it went wrong.
        number: of the run.
        draw: of all moments.
    """
    flags, seconds = run_whole(setup, folder)
    run, log = folder / "run", folder / "run.log"
    shutil.rmtree(run, ignore_errors=True)
    kills: list[Kill] = []
    program, arguments = "train", flags
    for _ in range(1 + (draw.random() < SECOND_KILLS)):
        moment, one, rank = draw.uniform(0, seconds), draw.random() < ALONE, draw.randrange(setup.processes)
        by_report = draw.random() < BY_REPORT and setup.preset == REPORTED
        log.unlink(missing_ok=True)
        started = start(arguments, log, processes_of(program, setup), program)
        multiprocessing.connection.wait([process.sentinel for process in started], moment)
        phase = phase_of(run, log) if all(process.is_alive() for process in started) else "ended"
        if phase == "ended":
            statuses = finish(started, LONGEST_S)
            break
        kill(started, [rank] if one and rank < len(started) else range(len(started)))
        program, arguments = how_to_resume(flags, run, by_report)
        how = "report" if program == "evaluate" else "resume" if "--ckpt_path" in arguments else "again"
        kills.append(Kill(number, setup.name, round(moment, 2), phase, how))
    else:  # killed at the last
        if log.is_file():  # none where it was killed before it could write
            log.replace(folder / "killed.log")
        statuses = finish(start(arguments, log, processes_of(program, setup), program), LONGEST_S)
    if not kills:
        return [Kill(number, setup.name, round(moment, 2), phase)]
    kills[-1].wrong = [f"exit status {statuses}"] if any(statuses) else differences(run, folder / "whole")
    if kills[-1].wrong:
        keep(folder, number)
    return kills


def processes_of(program: str, setup: Setup) -> int:
    """A report is made in one process."""
    return setup.processes if program == "train" else 1


def keep(folder: Path, number: int) -> None:
    """Put a run that went wrong aside, with its logs."""
    aside = folder / f"wrong-{number}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for path in [folder / "run", *folder.glob("run.log*"), *folder.glob("run.*"), folder / "killed.log"]:
        if path.exists():
            path.rename(aside / path.name)


def soak(out: Path, seed: int, count: int) -> list[Kill]:
    """All kills of a folder until there are `count`; one line each."""
    known = out / "kills.jsonl"
    kills = [Kill(**json.loads(line)) for line in known.read_text().splitlines()] if known.is_file() else []
    number = 1 + max((kill.number for kill in kills), default=-1)
    while sum(kill.phase != "ended" for kill in kills) < count:
        setup = ORDER[number % len(ORDER)]
        new = attempt(setup, out / setup.name, number, random.Random(f"{seed}-{number}"))
        with known.open("a") as file:
            file.writelines(f"{json.dumps(asdict(kill))}\n" for kill in new)
        for kill in new:
            print(line_of(kill), flush=True)
        kills += new
        number += 1
        store(kills, out / "soak.json")
    return kills


def line_of(kill: Kill) -> str:
    """One kill in words."""
    verdict = "" if kill.wrong is None else f": {'; '.join(kill.wrong) or 'equal'}"
    return (
        f"{kill.number:4d} {kill.setup:25s} {kill.moment_s:6.2f} s, {kill.phase}, {kill.resumed_by}{verdict}"
    )


def summary(kills: Sequence[Kill]) -> list[dict[str, Any]]:
    """Counts by kind of run and by phase: kills, and runs that ended otherwise than an uninterrupted one."""
    hits = [kill for kill in kills if kill.phase != "ended"]
    wrong = {kill.number for kill in hits if kill.wrong}
    rows = []
    for what, key in (("run", "setup"), ("phase", "phase"), ("resumed by", "resumed_by")):
        for value in sorted({getattr(kill, key) for kill in hits}):
            own = [kill for kill in hits if getattr(kill, key) == value]
            rows.append(
                {"by": what, "value": value, "kills": len(own), "wrong": sum(k.number in wrong for k in own)}
            )
    return rows


def main() -> None:
    """Kill and resume, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=1, help="of all moments")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args()
    CONTEXT.set_forkserver_preload([*PRELOADED, *SLOW_IMPORTS])
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    kills = soak(out, options.seed, options.count)
    store(kills, out / "soak.json")  # also where there were enough already
    sys.exit(1 if any(kill.wrong for kill in kills) else 0)


def store(kills: Sequence[Kill], path: Path) -> None:
    """Write the counts with what gave them."""
    ended = [kill for kill in kills if kill.wrong is not None]
    save(
        "soak",
        summary(kills),
        path,
        command=shlex.join(["python", "-m", "tests.soak", *sys.argv[1:]]),
        git_commit=git_commit(),
        kills=sum(kill.phase != "ended" for kill in kills),
        runs=len(ended),
        killed_twice=sum(kill.wrong is None and kill.phase != "ended" for kill in kills),
        wrong=sum(bool(kill.wrong) for kill in ended),
    )


if __name__ == "__main__":
    main()
