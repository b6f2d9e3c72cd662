"""Rows of the suite again, on the ranges of two kinds of processor."""

from __future__ import annotations

from benchmarks.processors import ROWS, SUITE, recipe_of
from benchmarks.publish import processor_rows
from qat.runs import read_config
from qat.suite.spec import load_suite


def test_every_row_is_one_of_the_suite_and_its_recipe_that_of_train() -> None:
    suite = load_suite(SUITE)
    for name in ROWS:
        row = suite.row(name)
        recipe = recipe_of(row.args, read_config(suite.configs[row.model]), seed=1)
        assert recipe.preset == row.args[1] and recipe.seed == 1 and not recipe.fine_tune
        assert bool(recipe.rules) == (row.model == "wav2vec2")


def test_a_line_says_what_differs_from_the_stored_row() -> None:
    row = {"row": "a/b", "reduce_range": True, "threads": 1, "split": "x", "errors": 5, "stored": 4}
    line = next(processor_rows([{**row, "differing": 3, "utterances": 9}]))
    assert line["utterances with other errors"] == "3 of 9" and "without VNNI" in line["8-bit weights"]
