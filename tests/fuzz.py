"""Mutations of valid inputs, and how one of them ends."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qat.cli.ending import run_command

Random = np.random.Generator
LONGEST_S = 60  # an input that takes longer hangs
ROOM = 8 << 30  # bytes that an input may take
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 1e30, -0.5, float("nan"), float("inf"), 2**31, 2**63, 10**400),
    *("", " ", "x", "0", "null", "../../etc", "\x00", "ü" * 300, [], {}, [1], {"a": 1}, [None], "1e3"),
]


class Hangs(BaseException):
    """An input that took too long."""


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Args:
        make: writes a valid input into an empty folder.
        mutate: changes what lies in such a folder a little, or gives arguments to add; by a seeded generator.
        use: reads the folder, with the arguments, and gives what is wrong with the answer, if anything.
    """

    make: Callable[[Path], None]
    mutate: Callable[[Path, Random], list[str]]
    use: Callable[[Path, list[str]], str]


def attempt(kind: Kind, valid: Path, folder: Path, seed: int) -> str:
    """What went wrong with one mutation of a valid input: empty, or a description.

    Args:
        kind: of input.
        valid: a folder of `Kind.make`.
        folder: where the mutation is put; replaced.
        seed: of the mutation.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid, folder)
    arguments = kind.mutate(folder, np.random.default_rng(seed))
    found: list[str] = []
    errors = io.StringIO()
    try:
        with limited(), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            run_command(lambda args: found.append(kind.use(folder, args)), arguments)
    except SystemExit as error:
        lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
        if error.code != 2 or len(lines) != 1:
            return f"exit status {error.code} and {len(lines)} lines: {errors.getvalue()[-500:]}"
        return ""
    except Hangs:
        return f"takes longer than {LONGEST_S} s"
    except Exception:
        return traceback.format_exc()[-1500:]
    return found[0]


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """A limit of time and of memory."""

    def stop(*_: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, hard))
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def damage(path: Path, random: Random) -> None:
    """Flip, cut, insert or repeat bytes of a file, more often near its beginning."""
    data = bytearray(path.read_bytes())
    for _ in range(int(random.integers(1, 4))):
        end = min(len(data), 256) if random.random() < 0.5 else len(data)
        place = int(random.integers(0, max(1, end)))
        choice = random.integers(0, 5)
        if choice == 0:
            data[place : place + 1] = bytes([random.integers(0, 256)])
        elif choice == 1:
            del data[place:]
        elif choice == 2:
            data[place:place] = random.bytes(int(random.integers(1, 9)))
        elif choice == 3:
            data[place : place + 4] = random.choice([b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\x00\x00"])
        else:
            data[place:place] = data[place : place + int(random.integers(1, 64))]
    path.write_bytes(bytes(data))


def replaced(value: Any, random: Random) -> Any:
    """Nested builtins with one entry replaced by an odd value, removed, or renamed."""
    value = copy.deepcopy(value)
    places = list(entries(value))
    parent, key = places[int(random.integers(0, len(places)))]
    choice = random.random()
    if choice < 0.8:
        parent[key] = ODD[int(random.integers(0, len(ODD)))]
    elif isinstance(parent, dict):
        old = parent.pop(key)
        if choice < 0.9:
            parent[f"{key}x"] = old
    else:
        parent.append(parent[key])
    return value


def entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of nested builtins with each of its keys."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(item, dict | list):
            yield from entries(item)
