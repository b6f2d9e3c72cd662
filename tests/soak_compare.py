"""What a killed and resumed run's folder must share with that of a run that was left alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_equal import compared
from qat.runs import REPORT_FILE

MEASURED = frozenset(  # fields of a row that differ from one run of a command to the next
    ("latency_ms", "float_latency_ms", "parts_ms", "rtf", "speedup", "peak_memory_mb")
    + ("started_at", "duration_s", "command", "config_sha256", "git_commit")
)
DRAWN = (".png", ".md")  # from the rows, times and all
SAID = ("config.yaml",)  # holds the flags, of which one says that the run resumes
TIMED = ("utterances.json",)  # hold seconds beside the texts
UNREAD = re.compile(  # seconds of AdaRound; what Lightning keeps and neither restores nor decides by
    r"\.reconstruction\.\d+\.seconds|\.callbacks\.ModelCheckpoint\{.*\}\.current_score"
)
SHOWN = 3  # differences of a file that are named


def differences(folder: Path, whole: Path) -> list[str]:
    """What a run's folder does not share with that of an uninterrupted run of the same command; empty: nothing.

    Names of files, checkpoints bit for bit, rows of the report but for times, other files byte for byte.
    """
    names, expected = files_of(folder), files_of(whole)
    found = [f"{name}: left over" for name in sorted(names - expected)]
    found += [f"{name}: missing" for name in sorted(expected - names)]
    for name in sorted(names & expected):
        found += [f"{name}: {what}" for what in file_differences(folder / name, whole / name)]
    return found


def files_of(folder: Path) -> set[str]:
    """Names of all files and empty folders below a folder, hidden ones too."""
    below = (path for path in folder.rglob("*") if path.is_file() or not any(path.iterdir()))
    return {str(path.relative_to(folder)) for path in below}


def file_differences(one: Path, two: Path) -> Iterator[str]:
    """What one file says otherwise than another of the same name."""
    if one.suffix in DRAWN or one.name in SAID:
        if not one.stat().st_size:
            yield "empty"
    elif one.suffix == ".ckpt":
        yield from checkpoint_differences(one, two)
    elif one.name == REPORT_FILE:
        yield from row_differences(json.loads(one.read_text()), json.loads(two.read_text()))
    elif one.read_bytes() != two.read_bytes():
        yield "other bytes"


def checkpoint_differences(one: Path, two: Path) -> Iterator[str]:
    """Leaves of two checkpoints that differ in a bit: weights, quantizers, optimiser, log, state of callbacks."""
    contents = (torch.load(path, "cpu", weights_only=True) for path in (one, two))
    different = [name for name, same in compared("", *contents) if not same and not UNREAD.fullmatch(name)]
    yield from different[:SHOWN]
    if len(different) > SHOWN:
        yield f"and {len(different) - SHOWN} more"


def row_differences(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> Iterator[str]:
    """Fields of a report's rows that differ, and rows that one has alone."""
    if len(rows) != len(expected):
        yield f"{len(rows)} rows, must be {len(expected)}"
    for row, other in zip(rows, expected, strict=False):
        for key in sorted(row.keys() | other.keys()):
            if key not in MEASURED and row.get(key) != other.get(key):
                yield f"{row.get('split')}, {row.get('method')}: {key}"
