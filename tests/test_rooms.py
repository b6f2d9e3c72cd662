"""The house of design.md: imports go down through its rooms, none in a circle, and no file or function grows large."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

# lowest first; a room may import those before it
ROOMS = (
    "qat.system",
    "qat.numerics",
    "datamodules",
    "qat.layer_recipe",
    "qat.rule",
    "qat.recipe",
    "qat.runs",
    "qat.layers",
    "qat.decoding",
    "qat.models",
    "qat.methods",
    "qat.runtime",
    "qat.evaluation",
    "qat.report",
    "qat.search",
    "qat.tracking",
    "qat.suite",
    "qat.callbacks",
    "qat.cli",
)
LONGEST_FILE, LONGEST_FUNCTION = 300, 50  # lines
LAZY_PACKAGES = (
    "qat.models",
    "datamodules",
)  # they name classes for configurations, and import them on first use


@dataclass(frozen=True)
class Module:
    """One source file.

    Args:
        name: dotted.
        path: of the file.
        is_package: whether it is an `__init__`.
    """

    name: str
    path: Path
    is_package: bool

    @property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.path.read_text())

    @property
    def room(self) -> int:
        """Number of its room in `ROOMS`; -1 for the package `qat` itself."""
        rooms = [index for index, room in enumerate(ROOMS) if f"{self.name}.".startswith(f"{room}.")]
        return rooms[0] if rooms else -1


@cache
def modules() -> dict[str, Module]:
    """Dotted name -> source file of ours."""
    found = {}
    for path in sorted([*(ROOT / "qat").rglob("*.py"), *(ROOT / "datamodules").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = Module(name, path, is_package)
    return found


def imports_of(module: Module) -> Iterator[tuple[str, str | None]]:
    """(module, name in it or None) of every import of ours, inside functions and for type checkers too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules():
                    yield inner, None
                elif node.module in modules():
                    yield str(node.module), alias.name
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name in modules())


@cache
def graph() -> dict[str, set[str]]:
    """Module -> those that it imports."""
    return {name: {target for target, _ in imports_of(module)} for name, module in modules().items()}


def circles() -> list[list[str]]:
    """Sets of modules that import each other, directly or not."""
    reachable: dict[str, set[str]] = {}
    for start in graph():
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph()[waiting.pop()] - seen
            seen |= new
            waiting += new
        reachable[start] = seen
    return [
        sorted(other for other in seen if start in reachable[other])
        for start, seen in reachable.items()
        if start in seen
    ]


def test_every_file_lies_in_a_room() -> None:
    assert [name for name, module in modules().items() if module.room < 0] == ["qat"]
    assert {module.room for module in modules().values()} == set(range(-1, len(ROOMS)))


def test_imports_go_down() -> None:
    found = modules()
    up = [
        f"{name} -> {target}"
        for name in found
        for target in graph()[name]
        if found[target].room > found[name].room
    ]
    assert not up


def test_no_circle_of_imports() -> None:
    assert not circles()


def test_names_are_imported_from_files_not_from_packages() -> None:
    through = [
        f"{name} -> {target}.{imported}"
        for name, module in modules().items()
        for target, imported in imports_of(module)
        if imported and modules()[target].is_package
    ]
    assert not through


def test_a_package_holds_a_docstring_alone() -> None:
    for name, module in modules().items():
        if module.is_package and name not in LAZY_PACKAGES:
            assert ast.get_docstring(module.tree), name
            further = [ast.unparse(node) for node in module.tree.body[1:]]
            assert all(line.startswith("__version__ = ") for line in further), name


@pytest.mark.parametrize("name", LAZY_PACKAGES)
def test_a_lazy_package_imports_for_type_checkers_alone(name: str) -> None:
    run = [node for node in modules()[name].tree.body if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in run} == {"typing", "qat.system.lazy"}


def test_files_are_short() -> None:
    lines = {name: len(module.path.read_text().splitlines()) for name, module in modules().items()}
    assert not {name: count for name, count in lines.items() if count > LONGEST_FILE}


def test_functions_are_short() -> None:
    long = {}
    for name, module in modules().items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = int(node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long[f"{name}.{node.name}"] = length
    assert not long


def test_every_source_file_has_a_test_at_the_mirrored_path() -> None:
    mirrored = {
        name: ROOT / "tests" / Path(*name.removeprefix("qat.").split(".")).parent / f"test_{module.path.name}"
        for name, module in modules().items()
        if not module.is_package
    }
    assert not [name for name, path in mirrored.items() if not path.is_file()]
