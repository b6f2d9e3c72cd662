"""Stored rows of a suite, seeds of a row pooled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qat.evaluation.significance import Difference, paired_difference, wer_interval
from qat.report.row import Row
from qat.suite.spec import FLOAT, Suite
from qat.suite.store import Results

NOT_RUN = "not run yet"


@dataclass(frozen=True)
class Cell:
    """The result of a row on one split, its seeds pooled.

    Args:
        wer: mean over seeds, percent.
        spread: standard deviation between seeds; None for one.
        interval: 95 % bootstrap, seeds pooled.
        difference: to float, paired, seeds pooled; None for the float row, and where that was not measured.
        seeds: how many.
    """

    wer: float
    spread: float | None
    interval: tuple[float, float] | None
    difference: Difference | None
    seeds: int


class View:
    """Looks rows up by suite row and split.

    Args:
        suite: what was to be measured.
        results: what was.
    """

    def __init__(self, suite: Suite, results: Results) -> None:
        self.suite, self.results = suite, results
        self.splits = list(dict.fromkeys(row.split for row in results.rows))
        self.cells: dict[tuple[str, str], Cell | None] = {}

    def rows(self, row_id: str, split: str) -> list[Row]:
        """Stored rows, one per seed."""
        return [row for row in self.results.rows if row.suite_row == row_id and row.split == split]

    def curves(self, model: str) -> dict[str, tuple[str, ...]]:
        """Method -> row names by falling bits, for the methods of which the model has a row."""
        known = {row.name for row in self.suite.rows if row.model == model}
        return {method: names for method, names in self.suite.curves.items() if known & set(names)}

    def first(self, row_id: str) -> Row | None:
        """Any row: bits, size and latency do not depend on the split."""
        return next((row for row in self.results.rows if row.suite_row == row_id), None)

    def is_measured(self, model: str) -> bool:
        """Whether anything of a model is stored."""
        return any(str(row.suite_row).startswith(f"{model}/") for row in self.results.rows)

    def errors(self, row_id: str) -> list[dict[str, list[int]]]:
        """Word errors of each utterance, split -> counts, one per seed."""
        if row_id.endswith(f"/{FLOAT}"):
            return [self.results.errors[row_id]] if row_id in self.results.errors else []
        seeds = self.suite.row(row_id).seeds
        return [
            self.results.errors[key] for seed in seeds if (key := f"{row_id}/s{seed}") in self.results.errors
        ]

    def cell(self, row_id: str, split: str) -> Cell | None:
        """The row's numbers on one split; None where nothing is stored."""
        if (row_id, split) not in self.cells:
            self.cells[row_id, split] = self._cell(row_id, split)
        return self.cells[row_id, split]

    def _cell(self, row_id: str, split: str) -> Cell | None:
        measured = [row.wer for row in self.rows(row_id, split) if row.wer is not None]
        counts = [np.asarray(item[split]) for item in self.errors(row_id)]
        if not measured or not counts:
            return None
        model = row_id.partition("/")[0]
        words = np.asarray(self.results.errors[f"{model}/words"][split]) * len(counts)
        pooled = np.sum(counts, axis=0)
        difference = None
        if not row_id.endswith(f"/{FLOAT}") and f"{model}/{FLOAT}" in self.results.errors:
            base = np.asarray(self.results.errors[f"{model}/{FLOAT}"][split]) * len(counts)
            difference = paired_difference(pooled, base, words, seed=0)
        return Cell(
            wer=100.0 * float(pooled.sum()) / float(words.sum()),
            spread=float(np.std(measured, ddof=1)) if len(measured) > 1 else None,
            interval=wer_interval(pooled, words, seed=0),
            difference=difference,
            seeds=len(counts),
        )

    def dev_wer(self, row_id: str) -> float | None:
        """The least error rate on dev that training showed, percent, mean over seeds; None where one has none."""
        states = [self.results.runs.get(f"{row_id}/s{seed}", {}) for seed in self.suite.row(row_id).seeds]
        found = [state["dev_wer"] for state in states if "dev_wer" in state]
        return sum(found) / len(found) if found and len(found) == len(states) else None

    def failure(self, row_id: str) -> str:
        """Why a row is empty."""
        states = [state for key, state in self.results.runs.items() if key.rpartition("/")[0] == row_id]
        failed = next((state for state in states if state["status"] == "failed"), None)
        return f"failed: {failed['error']}" if failed else NOT_RUN
