"""Lines of the tables of docs/reliability.md, from the rows of their result files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

Row = dict[str, Any]


def wrong_by(title: str, field: str, results: list[Row]) -> Iterator[Row]:
    """Inputs that ended in the right answer or one line, and those that did not, by what a field says."""
    for row in results:
        yield {title: row[field].replace("_", " "), "inputs": row["inputs"], "went wrong": row["wrong"]}


mutated = partial(wrong_by, "mutations of", "kind")
guided = partial(wrong_by, "reader", "reader")  # by coverage


def soak(results: list[Row]) -> Iterator[Row]:
    """Kills by what was under way; the file counts them by kind of run as well."""
    for row in results:
        if row["by"] == "phase":
            yield {"killed while": row["value"], "kills": row["kills"], "ended otherwise": row["wrong"]}


def long_audio(results: list[Row]) -> Iterator[Row]:
    """Memory of recordings of several lengths."""
    for row in results:
        yield {
            "model": row["model"],
            "minutes of audio": f"{row['audio_s'] / 60:.0f}",
            "peak memory MB": f"{row['peak_memory_mb']:.0f}",
        }
