"""Which checkpoint an exported file or folder was made from: read from what it says of itself, without opening it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from qat.runtime.manifest import CHECKPOINT_KEY, MANIFEST

METADATA_PROPS = 14  # field of onnx.ModelProto; each is a message of key (field 1) and value (field 2)


def checkpoint_of(exported: Path) -> str:
    """Hex digest of the checkpoint that a file or folder was exported from.

    Returns:
        "" where it does not say, cannot be read, or is not there.
    """
    try:
        return str(said_by(exported).get(CHECKPOINT_KEY, ""))
    except (OSError, ValueError):
        return ""


def said_by(exported: Path) -> dict[str, Any]:
    """What a file or folder says of itself: its metadata, texts all of them, or its manifest.

    Raises:
        OSError: it cannot be read.
        ValueError: it is neither.
    """
    if not exported.is_dir():
        return dict(read_metadata(exported))
    said = json.loads((exported / MANIFEST).read_text(encoding="utf-8"))
    return said if isinstance(said, dict) else {}


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file; its graph, however large, is skipped.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no ONNX file, or not all of one.
    """
    found = {}
    with path.open("rb") as file:
        for start, size in messages(file, METADATA_PROPS, 0, os.fstat(file.fileno()).st_size):
            texts = []
            for field in (1, 2):
                place, length = next(iter(messages(file, field, start, start + size)), (start, 0))
                file.seek(place)
                texts.append(file.read(length).decode())
            found[texts[0]] = texts[1]
    return found


def messages(file: BinaryIO, wanted: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Place and length of each value of one field, of those that have a length (protobuf's wire format).

    Args:
        file: at any place.
        wanted: number of the field.
        start: first byte of the message.
        end: first byte after it.

    Raises:
        ValueError: the bytes from `start` to `end` are not whole fields.
    """
    while start < end:
        file.seek(start)
        field, kind = divmod(read_number(file), 8)
        size = {0: 0, 1: 8, 2: -1, 5: 4}.get(kind)
        if size is None:
            raise ValueError(f"wire type {kind}")
        if size <= 0:
            number = read_number(file)
            size = number if kind == 2 else 0
        start = file.tell() + size
        if start > end:
            raise ValueError("the file ends early")
        if field == wanted and kind == 2:
            yield start - size, size


def read_number(file: BinaryIO) -> int:
    """The number that begins here, seven bits a byte, the lowest first.

    Raises:
        ValueError: it has no end.
    """
    number = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            break
        number |= (byte[0] & 127) << 7 * place
        if byte[0] < 128:
            return number
    raise ValueError("a number without an end")
