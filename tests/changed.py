"""Run the tests that mirror the files changed since the last commit: `python -m tests.changed`, in `make quick`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NO_TESTS_COLLECTED = 5  # pytest's exit status, as of a source file without doctests


def changed_files(root: Path = ROOT) -> list[str]:
    """Paths that differ from the last commit, untracked ones included, relative to the repository's root."""
    found: set[str] = set()
    for arguments in (["diff", "--name-only", "HEAD"], ["ls-files", "--others", "--exclude-standard"]):
        found.update(subprocess.check_output(["git", *arguments], cwd=root, text=True).splitlines())
    return sorted(found)


def mirror(path: str) -> str:
    """The test file of a source file or page; a test file is its own.

    >>> mirror("qat/layers/linear.py"), mirror("qat/recipe.py"), mirror("evaluate.py")
    ('tests/layers/test_linear.py', 'tests/test_recipe.py', 'tests/test_evaluate.py')
    >>> mirror("datamodules/text.py"), mirror("docs/data.md"), mirror("Makefile")
    ('tests/datamodules/test_text.py', 'tests/test_readme.py', 'tests/test_makefile.py')
    """
    parts = Path(path)
    if parts.parts[0] == "tests":
        return path
    if parts.suffix == ".md":
        return "tests/test_readme.py"
    folder = parts.parent.relative_to("qat") if parts.parts[0] == "qat" else parts.parent
    return (Path("tests") / folder / f"test_{parts.stem.lower().strip('.')}.py").as_posix()


def select(paths: Iterable[str], root: Path = ROOT) -> tuple[list[str], list[str]]:
    """The files that pytest is given for the changed `paths`, and the source files that no test mirrors.

    A source file of the packages is given as well as its test, for its doctests.
    """
    chosen: set[str] = set()
    without: list[str] = []
    for path in paths:
        test = mirror(path)
        if Path(test).name.startswith("test_") and (root / test).is_file():
            chosen.add(test)
        elif path.endswith(".py") and not path.startswith("tests/") and Path(path).stem != "__init__":
            without.append(path)
        if path.startswith(("qat/", "datamodules/")) and path.endswith(".py") and (root / path).is_file():
            chosen.add(path)
    return sorted(chosen), without


def main() -> int:
    """Say what runs, run it, and return pytest's exit status."""
    paths = changed_files()
    if not paths:
        print("quick: nothing has changed since the last commit")
        return 0
    tests, without = select(paths)
    if without:
        print(f"quick: no test mirrors {', '.join(without)}")
    if not tests:
        print("quick: nothing to test in what has changed")
        return 0
    print(f"quick: {' '.join(tests)}", flush=True)
    workers = "2" if len(tests) > 3 else "0"  # a worker takes seconds to start
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-n", workers, "--dist", "loadfile"]
    status = subprocess.run([*command, *tests], cwd=ROOT).returncode
    return 0 if status == NO_TESTS_COLLECTED else status


if __name__ == "__main__":
    sys.exit(main())
