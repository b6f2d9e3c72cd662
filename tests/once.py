"""What costs seconds to make and is the same for all tests: made once a run, whichever worker needs it first."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Made = TypeVar("Made")


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run of the tests see, and no other run."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]) -> Made:
    """What `make` returns for an empty folder `name`; made by the first caller, while others wait, and then read.

    Args:
        factory: of the session.
        name: of the folder, which stays as `make` leaves it; nobody may change it later.
        make: fills the folder; what it returns can be pickled.
    """
    folder = shared_folder(factory) / name
    known = folder.with_name(f"{name}.pickle")
    with folder.with_name(f"{name}.lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)  # ends with the process, however that ends
        if not known.is_file():
            shutil.rmtree(folder, ignore_errors=True)  # what a failure left
            folder.mkdir()
            known.write_bytes(pickle.dumps(make(folder)))
        return pickle.loads(known.read_bytes())
