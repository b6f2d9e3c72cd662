"""The tables of docs/peers.md from the rows of `benchmarks.peers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.result_file import table

ABSENT = "Not measured yet: `python -m benchmarks.peers`\n"
Row = dict[str, Any]


def line(row: Row) -> Row:
    """One row of a table; a row that was not measured gives its reason."""
    named = {"quantizer": row["peer"], "setting": row["setting"], "bits": row["bits"]}
    empty = dict.fromkeys(("WER %", "difference to float", "p", "MB", "speed", "first time"), "")
    if row["status"] != "measured":
        return {**named, **empty, "difference to float": f"{row['status']}: {row['note']}"}
    timed = row["speed"]
    return {
        **named,
        "WER %": f"{row['wer']:.2f}",
        "difference to float": difference(row),
        "p": "" if row["p_value"] is None else f"{row['p_value']:.4f}",
        "MB": "" if row["size_mb"] is None else f"{row['size_mb']:.2f}",
        "speed": "" if timed is None else f"{timed['ratio']:.2f}x",
        "first time": "" if timed is None else f"{timed['first_ratio']:.2f}x",
    }


def difference(row: Row) -> str:
    """In points, with its interval."""
    if row["delta"] is None:
        return ""
    low, high = row["ci95"]
    return f"{row['delta']:+.2f} [{low:+.2f}, {high:+.2f}]"


def block(path: Path, words: str) -> str:
    """The table of one model, with what gave it; a sentence where nothing is stored.

    Args:
        path: of the result file.
        words: the model, `crdnn` or `wav2vec2`.
    """
    stored = json.loads(path.read_text()) if path.is_file() else {"results": []}
    rows = [row for row in stored["results"] if row["model"] == words]
    if not rows:
        return ABSENT
    first = next((row for row in rows if row["status"] == "measured"), rows[0])
    base = f"float: WER {first['float_wer']:.2f} %. " if first["status"] == "measured" else ""
    lines = [line(row) for row in rows]
    return f"{table(lines, list(lines[0]))}\n\n{base}{made(rows)}\n"


def made(rows: list[Row]) -> str:
    """Command, processors and versions of some rows."""
    devices = sorted({f"{row['device']}, {row['instructions']}{vnni(row)}" for row in rows})
    versions: dict[str, set[str]] = {}
    for row in rows:
        for package, number in row["versions"].items():
            versions.setdefault(package, set()).add(number)
    named = ", ".join(f"{package} {' and '.join(sorted(found))}" for package, found in versions.items())
    commits = sorted({(row["git_commit"] or "unknown")[:12] for row in rows})
    return (
        f"`python -m benchmarks.peers --models {rows[0]['model']}` on {' and '.join(devices)}; "
        f"commit {', '.join(commits)}; {named}"
    )


def vnni(row: Row) -> str:
    """Whether the processor has VNNI."""
    return " with VNNI" if any("vnni" in flag for flag in row["cpu_flags"]) else " without VNNI"
