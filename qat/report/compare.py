"""Runs side by side: what differs in their settings, error rates paired by utterance, speed, size, changed texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.evaluation.significance import Difference, paired_difference
from qat.report.cells import p50
from qat.report.row import Row, load_report
from qat.report.utterance_files import Transcript, load_transcripts
from qat.runs import CONFIG_FILE, REPORT_FILE, UTTERANCES_FILE, read_config
from qat.system.errors import UserError

CHANGED = 10  # utterances shown for each run and split
LOWER_IS_BETTER = {"wer": True, "latency": True, "size": True, "speedup": False}
NOT_SETTINGS = ("run", "ckpt_path")  # differ between any two runs


@dataclass(frozen=True)
class Run:
    """A finished run as its folder tells it.

    Args:
        name: of the folder.
        config: `config.yaml`, flat, keys with dots.
        rows: split -> report row of the run's own model.
        transcripts: split -> what the run made of each utterance, by its id.
    """

    name: str
    config: Mapping[str, Any]
    rows: Mapping[str, Row]
    transcripts: Mapping[str, Mapping[str, Transcript]]


@dataclass(frozen=True)
class Line:
    """One run on one split.

    Args:
        run: name.
        row: its report row.
        difference: of WER to the first run over the same utterances, paired; None for the first run itself, and
            where the two have other utterances.
        note: why there is no difference.
    """

    run: str
    row: Row
    difference: Difference | None
    note: str = ""


@dataclass(frozen=True)
class Change:
    """An utterance that two runs transcribed with another number of errors."""

    run: str
    split: str
    id: str
    reference: str
    before: str
    after: str
    errors_before: int
    errors_after: int


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    Args:
        baseline: name of the first run, which differences are taken from.
        settings: key -> value of each run, only keys whose values differ; a key that a run lacks is left out.
        lines: split -> runs, sorted.
        changes: utterances that changed most, the greatest change first, by run and split.
    """

    baseline: str
    settings: Mapping[str, Mapping[str, Any]]
    lines: Mapping[str, Sequence[Line]]
    changes: Sequence[Change]


def read_run(folder: Path) -> Run:
    """Read a run folder that holds a report.

    Raises:
        UserError: a file is missing or is not what it should be.
    """
    own_rows = {
        row.split: row for row in load_report(folder / REPORT_FILE)
    }  # the last row is the run's own model
    transcripts = load_transcripts(folder / UTTERANCES_FILE)
    return Run(folder.name, flat(read_config(folder / CONFIG_FILE)), own_rows, transcripts)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys.

    >>> flat({"qat": {"weight_bits": 4, "rules": []}})
    {'qat.weight_bits': 4, 'qat.rules': []}
    """
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {
        key: inner
        for name, item in value.items()
        for key, inner in flat(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def compare(runs: Sequence[Run], sort: str = "wer", seed: int = 0) -> Comparison:
    """Compare runs; differences are to the first.

    Args:
        runs: at least two, of different names.
        sort: wer, latency, size or speedup: best first.
        seed: of the bootstrap.

    Raises:
        UserError: fewer than two, two of one name, or no split that all have.
    """
    names = [run.name for run in runs]
    if len(runs) < 2:
        raise UserError(f"compare: {len(runs)} run ({', '.join(names)}), must be at least two")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"compare: two runs are named {twice}, must be of different names; rename one folder")
    splits = [split for split in runs[0].rows if all(split in run.rows for run in runs)]
    if not splits:
        have = "; ".join(f"{run.name}: {', '.join(run.rows)}" for run in runs)
        raise UserError(f"compare: the runs have no test split in common ({have})")
    lines = {
        split: sorted((line_of(run, runs[0], split, seed) for run in runs), key=lambda line: rank(line, sort))
        for split in splits
    }
    changes = [change for run in runs[1:] for split in splits for change in most_changed(run, runs[0], split)]
    return Comparison(names[0], differing_settings(runs), lines, changes)


def differing_settings(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Keys whose values are not the same in all runs, with the value of each; a key that a run lacks is left out."""
    keys = sorted({key for run in runs for key in run.config if key not in NOT_SETTINGS})
    return {
        key: {run.name: run.config[key] for run in runs if key in run.config}
        for key in keys
        if any(key not in run.config or run.config[key] != runs[0].config.get(key) for run in runs)
    }


def line_of(run: Run, baseline: Run, split: str, seed: int) -> Line:
    """One run beside the first."""
    if run is baseline:
        return Line(run.name, run.rows[split], None, "the first run")
    mine, theirs = run.transcripts[split], baseline.transcripts[split]
    if references(mine) != references(theirs):
        return Line(run.name, run.rows[split], None, "other utterances than the first run's")
    names = list(theirs)
    difference = paired_difference(
        [mine[name].errors for name in names],
        [theirs[name].errors for name in names],
        [theirs[name].words for name in names],
        seed,
    )
    return Line(run.name, run.rows[split], difference, "" if difference else "fewer than two utterances")


def references(transcripts: Mapping[str, Transcript]) -> dict[str, str]:
    """Reference of each utterance."""
    return {name: item.reference for name, item in transcripts.items()}


def rank(line: Line, sort: str) -> tuple[bool, float, str]:
    """Sort key: best first, unmeasured last, ties by name."""
    row = line.row
    value = {"wer": row.wer, "latency": p50(row), "size": row.size_mb, "speedup": row.speedup}[sort]
    sign = 1.0 if LOWER_IS_BETTER[sort] else -1.0
    return value is None, sign * (value or 0.0), line.run


def most_changed(run: Run, baseline: Run, split: str, count: int = CHANGED) -> list[Change]:
    """The utterances whose errors changed most, greatest change first, ties by id."""
    pairs = [
        (name, baseline.transcripts[split][name], after)
        for name, after in run.transcripts[split].items()
        if name in baseline.transcripts[split]
    ]
    changed = [
        Change(
            run=run.name,
            split=split,
            id=name,
            reference=after.reference,
            before=before.hypothesis,
            after=after.hypothesis,
            errors_before=before.errors,
            errors_after=after.errors,
        )
        for name, before, after in pairs
        if before.reference == after.reference and before.errors != after.errors
    ]
    return sorted(changed, key=lambda item: (-abs(item.errors_after - item.errors_before), item.id))[:count]
