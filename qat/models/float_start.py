"""The float model that a run starts from: what the run remembers of it, and how that very model is found again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qat.models.loading import find_float
from qat.runs import START_FILE, sha256_of_checkpoint, start_of
from qat.system.errors import UserError
from qat.system.files import write_text
from qat.system.ranks import launched_rank

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class FloatStart:
    """What a run keeps of its float start, in `start.json`.

    Args:
        name: as the configuration has it.
        path: absolute path that it had when the run began.
        sha256: of the file, or of a folder's weights and configuration.
    """

    name: str
    path: str
    sha256: str


def keep_start(config: dict[str, Any], folder: Path, resumed: str | None = None) -> None:
    """Write down a run's float start; a resumed run keeps what it, or the run it resumes from, wrote at its beginning.

    Args:
        config: of the run.
        folder: of the run.
        resumed: checkpoint that it resumes from.
    """
    if resumed is not None:
        theirs = Path(resumed).parent / START_FILE
        if theirs.is_file() and not (folder / START_FILE).is_file():
            write_text(folder / START_FILE, theirs.read_text())
        return
    name = start_of(config)
    path = find_float(name) if name else None
    if path is not None:
        start = FloatStart(name, str(path.resolve()), sha256_of_checkpoint(path))
        write_text(folder / START_FILE, json.dumps(asdict(start), indent=1) + "\n")


def kept_start(folder: Path) -> FloatStart | None:
    """What a run has kept; None of a run without a start, or of an older version.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / START_FILE
    if not file.is_file():
        return None
    try:
        return FloatStart(**json.loads(file.read_text()))
    except (ValueError, TypeError):
        raise UserError(
            f"{file}: must hold name, path and sha256 of the run's float start; copy it again, or remove it"
        ) from None


def find_start(checkpoint: Path, config: dict[str, Any]) -> Path | None:
    """The float start of a checkpoint's run; None, and a line that says so, where it is not on this machine any more.

    It is searched for where it was, in the working folder, in the folders above the run, in this project and beside
    the run. What the run has kept decides whether a model is the right one; an older run's is taken by its path.

    Args:
        checkpoint: of the run.
        config: of the run, or another one that names the same start.
    """
    kept, name = kept_start(checkpoint.parent), start_of(config)
    if kept is None and not name:
        return None
    others = 0
    for place in places(checkpoint.parent, kept, name):
        if kept is None or sha256_of_checkpoint(place) == kept.sha256:
            return place
        others += 1
    if launched_rank() == 0:
        why = f"only other weights than {kept.sha256[:12]}..." if kept and others else "not found"
        print(
            f"{checkpoint}: its float start {kept.name if kept else name} is gone ({why}); the report is without it",
            file=sys.stderr,
            flush=True,
        )
    return None


def places(folder: Path, kept: FloatStart | None, name: str) -> Iterator[Path]:
    """Existing models that may be a run's float start, each once, the likeliest first."""
    seen: set[Path] = set()
    names = [kept.path, kept.name, name] if kept else [name]
    for place in (place for text in names if text for place in places_of(text, folder, kept is not None)):
        found = find_float(str(place)) if str(place) == name or place.exists() else None
        if found is not None and found.resolve() not in seen:
            seen.add(found.resolve())
            yield found


def places_of(name: str, folder: Path, beside: bool) -> Iterator[Path]:
    """Where a name of a model may point to: the working folder, those above a run, this project, beside the run.

    >>> [str(place) for place in places_of("a/x.ckpt", Path("/runs/mine"), beside=True)][:4]
    ['a/x.ckpt', '/runs/mine/a/x.ckpt', '/runs/a/x.ckpt', '/a/x.ckpt']
    """
    path, run = Path(name), folder.resolve()
    yield path
    if not path.is_absolute():
        yield from (above / path for above in (run, *run.parents, ROOT))
    if beside:
        yield run.parent / path.parent.name / path.name
        yield run.parent / path.name
