"""Messages of the argument parsers in one line: what, "must be ...", and the nearest option."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from qat.system.errors import UserError
from qat.system.nearest import did_you_mean, nearest_option

LONGEST = 400  # characters of a message
TYPES = {
    "bool": "true or false",
    "dict": "a mapping",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "NoneType": "null",
    "str": "text",
}
UNKNOWN = (  # what a parser says of a flag, of a field of a class or a list, and of other fields
    r"[Uu]nrecognized arguments: (?P<name>--?[^\s=]+)",
    r"Parser key \"(?P<group>[^\"]*)\":.*?(?P<name>\S+): must be a known option(; did you mean (?P<near>[^?]*))?",
    r"Group '(?P<group>[^']*)' does not accept option '(?P<name>[^']*)'",
    r"Option '(?P<name>[^']*)' is not accepted",
)


class OneLineErrors:
    """Beside a `jsonargparse` parser: errors are one line with exit status 2, and no flag may be abbreviated."""

    get_defaults: Callable[..., Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False

    def known_options(self) -> list[str]:
        """Dotted names of the options."""
        return list(self.get_defaults(skip_validation=True).keys())

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the telling part of the message.

        A class inside the configuration has a parser of its own, whose error the outer one repeats below its key.

        Raises:
            UserError: always.
        """
        for pattern in UNKNOWN:
            if found := re.search(pattern, message, flags=re.DOTALL):
                parts = found.groupdict()
                group = f"{parts['group']}." if parts.get("group") else ""
                inner = [group + parts["near"]] if parts.get("near") else []
                refuse_option(group + parts["name"], inner if "near" in parts else self.known_options())
        refuse_class(message)
        refuse_abstract(message)
        raise UserError(one_line(message))


def refuse_option(name: str, known: Iterable[str], where: str = "") -> NoReturn:
    """Raise for an option that nobody reads, naming the nearest.

    Args:
        name: a flag with its dashes, or a dotted field of a configuration.
        known: dotted options without dashes.
        where: what the message begins with.

    Raises:
        UserError: always.

    >>> refuse_option("--qat.weight_bit", ["qat.weight_bits"])
    Traceback (most recent call last):
    qat.system.errors.UserError: --qat.weight_bit: must be a known option; did you mean --qat.weight_bits?
    """
    bare = name.lstrip("-")
    near = nearest_option(bare, known)
    hint = f"; did you mean {name[: len(name) - len(bare)]}{near}?" if near else ""
    raise UserError(f"{where}{name}: must be a known option{hint}")


def refuse_class(message: str) -> None:
    """Raise where a parser's message says that a class cannot be imported, naming the nearest of its package.

    Raises:
        UserError: it says so.
    """
    found = re.search(r"Problem with given class_path '([^']*)':\s*(.*)", message)
    if found:
        package = found[1].rpartition(".")[0]
        names = getattr(sys.modules.get(package), "__all__", ())
        key = re.search(r'Parser key "([^"]*)":', message)
        near = did_you_mean(found[1], [f"{package}.{name}" for name in names])
        what = f"{key[1]}: " if key else ""
        raise UserError(f"{what}class_path {found[1]!r} must be importable ({found[2]}){near}")


def refuse_abstract(message: str) -> None:
    """Raise where a parser's message says that no class was named for a group of options.

    Raises:
        UserError: it says so.
    """
    found = re.search(
        r"Parser key \"([^\"]*)\":.*instantiatable class, but \S+ is abstract", message, flags=re.DOTALL
    )
    if found:
        raise UserError(
            f"{found[1]}: must name a class, by {found[1]}.class_path in the configuration or --{found[1]} NAME"
        )


def one_line(message: str) -> str:
    r"""The telling parts of a parser's message on one line.

    >>> one_line('Parser key "a.b":\n  Expected a <class \'int\'>. Got value: x')
    "a.b: 'x' must be a whole number"
    >>> one_line("argument --run: expected one argument")
    'argument --run: expected one argument'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["bad arguments"]
    key = re.search(r'Parser key "([^"]*)":', lines[0])
    reasons = [line[2:] for line in lines if line.startswith("- ")]
    reasons = reasons or [line for line in lines if line.startswith(("Expected a", "Not of type"))]
    expected = list(dict.fromkeys(expected_type(reason) for reason in reasons))
    value = given_value(lines)
    if key and expected and None not in expected:
        quoted = value if re.fullmatch(r"[-+.\d]+", value) else repr(value)
        return shortened(f"{key[1]}: {quoted} must be {' or '.join(map(str, expected))}")
    inside = [reason for reason in reasons if re.match(r"[\w.]+: .+ must be ", reason)]
    if key and inside:
        return shortened(f"{key[1]}.{inside[0]}")
    reasons = [reason for reason in reasons if "NoneType" not in reason] or reasons
    if not reasons:
        return shortened(re.sub(r'Parser key "([^"]*)":', r"\1:", " ".join(lines[:3])))
    given = f" (given: {value})" if value else ""
    return shortened(f"{key[1] + ':' if key else lines[0]} {'; '.join(reasons)}{given}")


def expected_type(reason: str) -> str | None:
    """What a parser's reason expects, in words; None where it says something else.

    >>> expected_type("Expected a typing.Literal['nearest', 'stochastic']. Got value: up")
    'nearest or stochastic'
    """
    if "PositiveInt" in reason:
        return "a whole number from 1"
    if literal := re.match(r"Expected an? typing\.Literal\[([^\]]*)\]", reason):
        choices = [choice.strip(" '\"") for choice in literal[1].split(",")]
        return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
    if plain := re.match(r"Expected an? <class '(\w+)'>", reason):
        return TYPES.get(plain[1])
    return None


def given_value(lines: Sequence[str]) -> str:
    """The value that a parser's message quotes; empty where it quotes none that a user has typed."""
    for line in lines:
        if found := re.search(r"(?:Got value|Given value): ?(.*)", line):
            return "" if "NestedArg" in found[1] else found[1]
    return ""


def shortened(text: str) -> str:
    """A message of `LONGEST` characters at most."""
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
