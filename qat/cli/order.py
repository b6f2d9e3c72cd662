"""The order of arguments: configurations and classes before the options that they give meaning to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.runs import read_config
from qat.system.errors import UserError

CLASSES = ("model", "data")  # options whose value names the class that further options belong to


@dataclass(frozen=True)
class Argument:
    """A flag with its value.

    Args:
        words: as typed, one or two.
        name: dotted, without dashes, `init_args` and the `+` of a list.
        value: empty where none follows.
    """

    words: tuple[str, ...]
    name: str
    value: str

    @property
    def is_class(self) -> bool:
        """Whether it names a class."""
        return self.name in CLASSES and re.fullmatch(r"[\w.]+", self.value) is not None and not self.is_file

    @property
    def is_file(self) -> bool:
        """Whether its value is a YAML file."""
        return self.value.endswith((".yaml", ".yml"))

    def sets(self) -> list[str]:
        """Dotted names of what it sets."""
        if self.is_class:
            return [f"{self.name}.class_path"]
        if self.name == "qat" and Path(self.value).is_file():
            return list(leaves(read_config(Path(self.value)), "qat"))
        return [self.name]


def in_order(args: Sequence[str]) -> list[str]:
    """Arguments with configurations first, and the class of a model or data module before its options.

    Nothing else changes places, so that a later flag wins over an earlier one.

    Raises:
        UserError: a flag stands before a configuration that sets the same.
    """
    arguments = arguments_of(args)
    configs = [item for item in arguments if item.name == "config"]
    if any("://" in item.value for item in configs):
        return list(args)  # a remote file
    for place, item in enumerate(arguments):
        if item.name == "config":
            refuse_overruled([other for other in arguments[:place] if other.name != "config"], item.value)
    rest = [item for item in arguments if item.name != "config"]
    for top in CLASSES:
        rest = classes_first(rest, top)
    return [word for item in (*configs, *rest) for word in item.words]


def arguments_of(args: Sequence[str]) -> list[Argument]:
    """Flags with their values; a word that belongs to none stands for itself.

    >>> [(item.name, item.value) for item in arguments_of(["-c", "a.yaml", "--model.init_args.x=1", "--help"])]
    [('config', 'a.yaml'), ('model.x', '1'), ('help', '')]
    """
    found: list[Argument] = []
    pending = list(args)
    while pending:
        word = pending.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        words = [word]
        if not equals and word.startswith("-") and pending and not is_flag(pending[0]):
            value = pending.pop(0)
            words.append(value)
        name = name.replace(".init_args.", ".").rstrip("+") if word.startswith("-") else ""
        found.append(Argument(tuple(words), "config" if name == "c" else name, value))
    return found


def is_flag(word: str) -> bool:
    """Whether a word is a flag; `-1` is a value."""
    return word == "-c" or word.startswith("--")


def classes_first(arguments: list[Argument], top: str) -> list[Argument]:
    """Arguments with the names of classes of `top` before the first of its options."""
    classes = [item for item in arguments if item.is_class and item.name == top]
    rest = [item for item in arguments if item not in classes]
    first = next((place for place, item in enumerate(rest) if item.name.startswith(f"{top}.")), len(rest))
    return [*rest[:first], *classes, *rest[first:]]


def refuse_overruled(earlier: Sequence[Argument], config: str) -> None:
    """Refuse flags that a later configuration sets too: whichever won, one would be lost without a word.

    Raises:
        UserError: naming the flag and the configuration.
    """
    if not earlier:
        return
    stored = list(leaves(contents(config)))
    for item in earlier:
        for name in item.sets():
            if any(f"{name}.".startswith(f"{leaf}.") or leaf.startswith(f"{name}.") for leaf in stored):
                raise UserError(
                    f"--{item.name}: must stand after --config {config}, which sets it too; put --config first"
                )


def contents(config: str) -> dict[str, Any]:
    """A configuration file, or the mapping that stands in its place.

    Raises:
        UserError: it is neither.
    """
    if not Path(config).is_file():
        import yaml

        try:
            mapping = yaml.safe_load(config)
        except yaml.YAMLError:
            mapping = None
        if isinstance(mapping, dict):
            return mapping
    return read_config(Path(config))


def leaves(config: Any, name: str = "") -> Iterator[str]:
    """Dotted names of all values of a configuration, without `init_args`.

    >>> list(leaves({"data": {"class_path": "M", "init_args": {"seed": 1}}, "run": None}))
    ['data.class_path', 'data.seed', 'run']
    """
    if not isinstance(config, dict) or not config:
        yield name
        return
    for key, value in config.items():
        yield from leaves(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
