"""The result file that every benchmark writes, and its table."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from qat.system.files import write_text
from qat.system.hardware import cpu_has_vnni, processor

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "torchao", "aimet-torch", "onnxruntime", "transformers", "speechbrain", "onnxscript")


def save(name: str, results: list[dict[str, Any]], path: Path | None = None, **facts: Any) -> Path:
    """Write `benchmarks/results/NAME.json`, or another file, with everything needed to read or repeat the numbers.

    Args:
        name: of the benchmark.
        results: rows.
        path: of the file.
        facts: what else it says, in place of what is said of the processor where the names are the same.
    """
    script = Path(sys.argv[0]).stem
    hidden = "avx2_only" in os.environ.get(
        "LD_PRELOAD", ""
    )  # by benchmarks.avx2_only, which takes the script's name
    module = ["benchmarks.avx2_only", script] if hidden else [f"benchmarks.{script}"]
    content = {
        "benchmark": name,
        "command": shlex.join(["python", "-m", *module, *sys.argv[1:]]),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": processor(),
        "cpu_vnni": cpu_has_vnni(),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # what this process may use
        "versions": versions(PACKAGES),
        **facts,
        "results": results,
    }
    path = path or RESULTS / f"{name}.json"
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Markdown table of some fields.

    >>> print(table([{"a": 1, "b": 2.345}], ["a", "b"]))
    | a | b |
    |---|---|
    | 1 | 2.35 |
    """

    def cell(value: Any) -> str:
        return f"{value:.2f}" if isinstance(value, float) else "" if value is None else str(value)

    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(cell(row.get(column, '')) for column in columns)} |" for row in rows]
    return "\n".join(lines)
