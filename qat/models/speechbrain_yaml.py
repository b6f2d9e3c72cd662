"""Reading a `hyperparams.yaml` of SpeechBrain (HyperPyYAML syntax) without running any of it.

`!ref <key>` and `!copy <key>` are resolved, with text around them and with sums and products of numbers. `!new:class`
and `!name:class` become a `Node` that says what the file wants built, where we know the class; nothing is imported or
called. Everything else that begins with `!` is refused.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from qat.models.speechbrain_classes import KNOWN, Known
from qat.models.yaml_values import arithmetic, plain
from qat.system.errors import UserError
from qat.system.nearest import did_you_mean

MOST_BYTES = 1_000_000  # of a file; published ones have 5 kB
LONGEST_TEXT = 10_000  # characters that references may write
REFERENCE = re.compile(r"<([^<>]*)>")
PARTS = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])*)")
PLAIN = "tag:yaml.org,2002:"


@dataclass(frozen=True, eq=False)
class Node:
    """What a file wants built (`!new:`) or named (`!name:`); two references to one key are the same `Node`.

    Attributes:
        kind: `new` or `name`.
        name: of the class, as `qat.models.speechbrain_classes` calls it.
        layers: positional arguments that are layers.
        arguments: keyword arguments.
        key: where it stands in the file.
        line: likewise.
    """

    kind: str
    name: str
    layers: tuple[Any, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    line: int = 0


def read_yaml(path: Path) -> dict[str, Any]:
    """Contents of a file, references resolved: builtins, tuples and `Node`s.

    Raises:
        UserError: naming the file, the key and what is wrong with it.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: must be a readable file ({error.strerror})") from None
    if len(text) > MOST_BYTES:
        raise UserError(f"{path}: {len(text)} bytes, must be at most {MOST_BYTES}; is it SpeechBrain's?")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path}: must hold keys and their values, as SpeechBrain writes it")
        return Reader(path, root).contents()
    except yaml.YAMLError as error:
        raise UserError(f"{path}: must be a YAML file ({' '.join(str(error).split())})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: must be text in UTF-8") from None
    except RecursionError:
        raise UserError(f"{path}: must nest less deeply") from None


class Reader:
    """Resolves one file.

    Args:
        path: for messages.
        root: of its YAML nodes.
    """

    def __init__(self, path: Path, root: yaml.MappingNode) -> None:
        self.path, self.root = path, root
        self.done: dict[int, Any] = {}
        self.open: set[int] = set()

    def contents(self) -> dict[str, Any]:
        """All top-level keys but those that begin with two underscores, which SpeechBrain drops too."""
        found = self.mapping(self.root, "")
        return {key: value for key, value in found.items() if not key.startswith("__")}

    def refuse(self, key: str, node: yaml.Node, problem: str) -> NoReturn:
        """Raise an error that names file, line and key."""
        raise UserError(f"{self.path}, line {node.start_mark.line + 1}: {key or 'top'}: {problem}")

    def value(self, node: yaml.Node, key: str) -> Any:
        """What a YAML node stands for, the same object each time.

        Args:
            node: the YAML node.
            key: where it stands, for messages.
        """
        if id(node) in self.done:
            return self.done[id(node)]
        if id(node) in self.open:
            self.refuse(key, node, "must not refer to itself")
        self.open.add(id(node))
        self.done[id(node)] = self.read(node, key)
        self.open.discard(id(node))
        return self.done[id(node)]

    def read(self, node: yaml.Node, key: str) -> Any:
        """`value` without its memory."""
        tag = node.tag
        if tag.startswith(("!new:", "!name:")):
            kind, _, class_path = tag[1:].partition(":")
            return self.build(node, key, kind, class_path)
        if tag in ("!ref", "!copy"):
            value = self.reference(node, key)
            return copy.deepcopy(value) if tag == "!copy" else value
        if tag == "!PLACEHOLDER":
            self.refuse(key, node, "!PLACEHOLDER, must be a value; write it into the file")
        if isinstance(node, yaml.MappingNode) and tag == f"{PLAIN}map":
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and tag == f"{PLAIN}seq":
            return [self.value(item, f"{key}[{index}]") for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            if tag == "!tuple":
                return self.scalar(node, key, node.value)
            if tag.startswith(PLAIN) and "python" not in tag:
                return self.scalar(node, key, node.value) if node.style is None else node.value
        return self.refuse(
            key, node, f"{tag}, must be !new:, !name:, !ref or !copy; nothing in the file is run"
        )

    def mapping(self, node: yaml.MappingNode, key: str) -> dict[str, Any]:
        """Values by key."""
        return {
            name: self.value(item, f"{key}.{name}" if key else name) for name, item in self.pairs(node, key)
        }

    def pairs(self, node: yaml.MappingNode, key: str) -> Iterator[tuple[str, yaml.Node]]:
        """Keys and YAML nodes of a mapping; each key once."""
        seen: set[str] = set()
        for name, item in node.value:
            if (
                not isinstance(name, yaml.ScalarNode)
                or name.tag == f"{PLAIN}merge"
                or name.tag.startswith("!")
            ):
                self.refuse(key, node, f"{name.value!r}, must be a plain key")
            if name.value in seen:
                self.refuse(key, name, f"{name.value!r} must be given once")
            seen.add(name.value)
            yield name.value, item

    def scalar(self, node: yaml.Node, key: str, text: str) -> Any:
        """What plain text stands for."""
        try:
            return plain(text)
        except ValueError as error:
            return self.refuse(key, node, str(error))

    # ---------------------------------------------------------------- references
    def reference(self, node: yaml.Node, key: str) -> Any:
        """A `!ref`: one key alone keeps its type, several or text around them make text or a number."""
        if not isinstance(node, yaml.ScalarNode):
            self.refuse(key, node, f"{node.tag}, must be followed by text")
        whole = REFERENCE.fullmatch(node.value)
        if whole:
            return self.target(node, key, whole[1])
        text = REFERENCE.sub(lambda found: self.written(node, key, found[1]), node.value)
        if len(text) > LONGEST_TEXT:
            self.refuse(key, node, f"{len(text)} characters, must be at most {LONGEST_TEXT}")
        try:
            number = arithmetic(text)
        except (ArithmeticError, RecursionError) as error:
            self.refuse(key, node, f"{text[:80]}, must be arithmetic with a value ({error})")
        if number is not None:
            return number
        return self.scalar(node, key, text) if text.startswith("(") else text

    def written(self, node: yaml.Node, key: str, name: str) -> str:
        """A referenced value within text."""
        value = self.target(node, key, name)
        if isinstance(value, Node | dict):
            self.refuse(key, node, f"<{name}> within text, must be a number or a word")
        return str(value)

    def target(self, node: yaml.Node, key: str, name: str) -> Any:
        """The value of `a` or `a[b][c]`."""
        if "." in name:
            self.refuse(
                key, node, f"<{name}>, must name a key; attributes of objects exist only where a file is run"
            )
        parts = PARTS.fullmatch(name)
        found: yaml.Node = self.root
        where = ""
        for part in (parts[1], *re.findall(r"\[([^\[\]]+)\]", parts[2])) if parts else (name,):
            inner = dict(self.pairs(found, where)) if isinstance(found, yaml.MappingNode) else {}
            if part not in inner:
                near = did_you_mean(part, list(inner))
                self.refuse(key, node, f"<{name}>, must name a key of the file{near}")
            found, where = inner[part], f"{where}.{part}" if where else part
        return self.value(found, where)

    # ---------------------------------------------------------------- classes
    def build(self, node: yaml.Node, key: str, kind: str, class_path: str) -> Node:
        """What `!new:` or `!name:` asks for."""
        if class_path not in KNOWN:
            near = did_you_mean(class_path, list(KNOWN))
            self.refuse(
                key,
                node,
                f"class {class_path}, must be one of a SpeechBrain CRDNN with attention or Wav2Vec2 with CTC{near}",
            )
        known, line = KNOWN[class_path], node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            arguments = self.mapping(node, key)
            unknown = [name for name in arguments if name not in known.arguments]
            if unknown and not known.named_layers:
                near = did_you_mean(unknown[0], list(known.arguments))
                self.refuse(
                    f"{key}.{unknown[0]}", node, f"must be an argument of {known.name} that we know{near}"
                )
            return Node(kind, known.name, (), arguments, key, line)
        if isinstance(node, yaml.SequenceNode):
            items = tuple(self.value(item, f"{key}[{index}]") for index, item in enumerate(node.value))
            return Node(kind, known.name, *self.positional(node, key, known, items), key, line)
        if node.value:
            self.refuse(key, node, f"{node.value!r}, must be arguments by name, or none")
        return Node(kind, known.name, (), {}, key, line)

    def positional(
        self, node: yaml.Node, key: str, known: Known, items: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Layers and keyword arguments of a class that is given a list."""
        if known.listed_layers:  # a ModuleList is given one list of modules, a Sequential each layer
            nested = len(items) == 1 and isinstance(items[0], list)
            return (tuple(items[0]) if nested else items), {}
        if len(items) > len(known.arguments):
            self.refuse(key, node, f"{len(items)} arguments, must be at most {len(known.arguments)}")
        return (), dict(zip(known.arguments, items, strict=False))
