"""Checks of stored records, derived from the dataclasses that describe them: annotations and a little metadata."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

INFINITY = float("inf")
PAIR = tuple[float, float]


@dataclass(frozen=True)
class Limits:
    """What the values of a field may be, besides their type.

    Attributes:
        low: least number allowed.
        high: greatest number allowed.
        choices: allowed texts; empty means any.
        pattern: regular expression that a text must match as a whole; "" means any text but the empty one.
        silent: null has a meaning of its own (float, no suite) and needs no note.
        optional: may be absent, which means null; null is stored as absence, and needs no note.
    """

    low: float = -INFINITY
    high: float = INFINITY
    choices: tuple[str, ...] = ()
    pattern: str = ""
    silent: bool = False
    optional: bool = False


def limited(**limits: Any) -> Any:
    """A dataclass field with `Limits`."""
    return field(metadata={"limits": Limits(**limits)})


@dataclass(frozen=True)
class FieldKind:
    """One field of a record, as JSON holds it.

    Attributes:
        name: of the field.
        kinds: allowed types (an int passes for a float, a bool for neither).
        limits: of its values.
        nullable: may be null.
        record: dataclass of a nested object; None for everything else.
        is_pair: `[low, high]`.
    """

    name: str
    kinds: tuple[type, ...]
    limits: Limits
    nullable: bool
    record: type | None
    is_pair: bool


@cache
def kinds_of(record: type) -> dict[str, FieldKind]:
    """Name -> kind of each field of a dataclass, in order."""
    hints = get_type_hints(record)
    found = {}
    for item in fields(record):
        hint = hints[item.name]
        options = (
            [option for option in get_args(hint) if option is not NoneType] if _is_union(hint) else [hint]
        )
        nested = next((option for option in options if is_dataclass(option)), None)
        found[item.name] = FieldKind(
            item.name,
            tuple(_json_kind(option) for option in options),
            item.metadata.get("limits", Limits()),
            NoneType in get_args(hint),
            nested if isinstance(nested, type) else None,
            PAIR in options,
        )
    return found


def _is_union(hint: Any) -> bool:
    return get_origin(hint) is not None and NoneType in get_args(hint)


def _json_kind(option: Any) -> type:
    """The builtin that JSON holds for an annotation: a pair is a list, a nested record an object."""
    origin = get_origin(option) or option
    if is_dataclass(origin) or origin is Mapping:
        return dict
    return list if origin is tuple else origin


def from_builtins(record: type, values: Mapping[str, Any]) -> Any:
    """The dataclass from checked JSON values; pairs become tuples, objects records."""
    made = {}
    for name, kind in kinds_of(record).items():
        value = values.get(name)
        if value is not None and kind.record is not None:
            value = from_builtins(kind.record, value)
        elif value is not None and kind.is_pair:
            value = tuple(value)
        made[name] = value
    return record(**made)


def null_paths(record: type, values: Mapping[str, Any]) -> Iterator[str]:
    """Dotted names of the null fields that need a note."""
    for name, kind in kinds_of(record).items():
        value = values.get(name)
        if value is None and kind.nullable and not (kind.limits.silent or kind.limits.optional):
            yield name
        elif kind.record is not None and isinstance(value, dict):
            yield from (
                f"{name}.{inner}"
                for inner, part in kinds_of(kind.record).items()
                if value.get(inner) is None and not part.limits.optional
            )


def without_absent(record: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """A record's values as they are stored: null optional fields, also of nested records, are left out."""
    kept = {}
    for name, kind in kinds_of(record).items():
        value = values[name]
        if value is None and kind.limits.optional:
            continue
        nested = kind.record is not None and isinstance(value, Mapping)
        kept[name] = without_absent(kind.record, value) if nested and kind.record is not None else value
    return kept


def field_problems(record: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every missing, unknown or bad field of a record's JSON values, one line each."""
    kinds = kinds_of(record)
    for name, kind in kinds.items():
        if name not in values and not kind.limits.optional:
            yield f"{prefix}{name} is missing" if prefix else f"field {name!r} is missing"
    yield from (f"unknown field {prefix + name!r}" for name in values if name not in kinds)
    for name, kind in kinds.items():
        if name in values:
            yield from _value_problems(prefix + name, values[name], kind)


def _value_problems(path: str, value: Any, kind: FieldKind) -> Iterator[str]:
    limits = kind.limits
    if value is None:
        if not kind.nullable:
            yield f"{path} may not be null"
    elif not is_kind(value, kind.kinds):
        yield f"{path} is {value!r}, must be {' or '.join(item.__name__ for item in kind.kinds)}"
    elif isinstance(value, str):
        yield from _text_problems(path, value, limits)
    elif isinstance(value, int | float):
        if not (math.isfinite(value) and limits.low <= value <= limits.high):
            yield f"{path} is {value!r}, must be a finite number in [{limits.low}, {limits.high}]"
    elif kind.is_pair:
        if not (len(value) == 2 and all(is_kind(item, (float,)) for item in value) and value[0] <= value[1]):
            yield f"{path} is {value!r}, must be [low, high]"
    elif kind.record is not None:
        yield from field_problems(kind.record, value, f"{path}.")


def _text_problems(path: str, value: str, limits: Limits) -> Iterator[str]:
    if not value:
        yield f"{path} is {value!r}, must not be empty"
    elif limits.pattern and not re.fullmatch(limits.pattern, value):
        yield f"{path} is {value!r}, must match {limits.pattern}"
    elif limits.choices and value not in limits.choices:
        yield f"{path} is {value!r}, must be one of {', '.join(limits.choices)}"


def is_kind(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a JSON value is of one of the kinds; an int passes for a float, a bool for neither."""
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))
