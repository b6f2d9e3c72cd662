"""What plain text in a YAML file stands for, and arithmetic on numbers, without running anything."""

from __future__ import annotations

import ast
import operator
import re
from typing import Any

LARGEST = 1e12  # number that arithmetic may reach
# as in YAML 1.2, which SpeechBrain's reader follows: PyYAML takes 1e-3 for text and "no" for false
NULL = ("", "~", "null", "Null", "NULL")
BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INTEGER = re.compile(r"[-+]?[0-9]+")
NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
OPERATORS: dict[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def plain(text: str) -> Any:
    """A plain scalar: null, truth value, number, tuple of these such as `(1, 2)`, or text.

    >>> plain("1e-3"), plain("no"), plain("(2, 4)"), plain("(16,)")
    (0.001, 'no', (2, 4), (16,))

    Raises:
        ValueError: a tuple within a tuple, or of anything but scalars.
    """
    if text in NULL:
        return None
    if text in BOOL:
        return BOOL[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text):
        return float(text)
    if not (text.startswith("(") and text.endswith(")")):
        return text
    inner = [part.strip() for part in text[1:-1].split(",")]
    if not inner[-1]:  # (1,) has a comma at its end
        inner.pop()
    if any(part.startswith(("!", "(", "[", "{", "&", "*")) for part in inner):
        raise ValueError(f"{text}, must be a tuple of numbers or words")
    return tuple(plain(part.strip("'\"")) for part in inner)


def arithmetic(text: str) -> int | float | None:
    """The number that sums, products and remainders of numbers make; None where `text` is something else.

    >>> arithmetic("2 * (3 + 1)"), arithmetic("results/7"), arithmetic("9 // 2")
    (8, None, 4)

    Raises:
        ArithmeticError: it has no value, one beyond `LARGEST`, or uses an operator that is not offered.
    """
    try:
        return number_of(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, MemoryError, ValueError):
        return None


def number_of(node: ast.expr) -> int | float:
    """Value of an expression of numbers.

    Raises:
        TypeError: it is not one.
        ArithmeticError: see `arithmetic`.
    """
    value: int | float
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and type(node.value) is not bool
    ):
        value = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = -number_of(node.operand)
    elif isinstance(node, ast.BinOp):
        left, right = number_of(node.left), number_of(node.right)
        if type(node.op) not in OPERATORS:
            raise OverflowError("only + - * / // and % are offered")
        value = OPERATORS[type(node.op)](left, right)
    else:
        raise TypeError
    if not abs(value) <= LARGEST:
        raise OverflowError("the number is too large")
    return value
