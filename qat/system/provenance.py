"""Where a number comes from (commit, versions, command, start), hashes, files never half written."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qat.system.files import sha256_folder

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "lightning", "onnxruntime", "transformers", "speechbrain")


def provenance(started: float | None = None) -> dict[str, Any]:
    """The row's `git_commit`, `versions`, `command`, `started_at` and `duration_s`.

    Args:
        started: `time.time()` at the start of the measurement; None means now.
    """
    now = time.time()
    started = now if started is None else started
    return {
        "git_commit": git_commit(),
        "versions": versions(),
        "command": command(sys.argv),
        "started_at": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "duration_s": round(now - started, 3),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of what computes the numbers; None for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def command(arguments: Sequence[str]) -> str:
    """What to type to get the number again; the script is named relative to the working folder.

    >>> command(["train.py", "--run", "my run"])
    "python train.py --run 'my run'"
    """
    script = Path(arguments[0])
    if script.is_absolute():
        inside = script.is_relative_to(Path.cwd())
        script = script.relative_to(Path.cwd()) if inside else Path(script.name)
    return shlex.join(["python", str(script), *arguments[1:]])


def git_commit(root: Path = ROOT) -> str | None:
    """Commit of the checkout at `root`, with `-dirty` when tracked files differ from it; None outside git.

    Prose and stored results (`docs`, `*.md`) decide no number, and a suite writes them while it runs.
    """
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None  # an installed copy inside somebody else's checkout
        commit = _git(root, "rev-parse", "--verify", "HEAD")
        counted = (".", ":(exclude)docs", ":(exclude)*.md")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *counted)
        return commit + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    line = ["git", *arguments]
    return subprocess.run(
        line, cwd=root, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


@cache
def sources_sha256() -> str:
    """Hex digest of this package's own code."""
    return sha256_folder(ROOT / "qat", "*.py")


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hex digest of a nested configuration of builtins, whatever the order of its keys.

    >>> config_sha256({"a": 1, "b": {"c": 2}}) == config_sha256({"b": {"c": 2}, "a": 1})
    True
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
