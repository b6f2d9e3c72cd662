"""Aims, judged on stored rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qat.suite.aims import acceptance, judge
from qat.suite.spec import Aim, Suite
from qat.suite.store import Results
from qat.suite.view import View


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (Aim("x", ("w8a8",), "insignificant"), True),
        (Aim("x", ("w3a8",), "insignificant"), False),
        (Aim("x", ("w3a8", "w8a8"), "insignificant"), True),  # the better of the two counts
        (Aim("x", ("ada", "w3a8"), "recovers", 0.6), True),
        (Aim("x", ("ada", "w3a8"), "recovers", 0.9), False),
        (Aim("x", ("w3a8", "ada"), "relative", 1.0), True),  # the better of the two counts
        (Aim("x", ("w3a8",), "relative", 1.0), False),
        (Aim("x", ("later",), "relative", 1.0), None),
        (Aim("x", ("ada", "later"), "recovers", 0.6), None),
        (Aim("x", ("ada", "w8a8"), "recovers", 0.6), None),  # nearest loses nothing there
    ],
)
def test_aims_are_judged(aim: Aim, met: bool | None, suite: Suite, results: Results) -> None:
    assert judge(View(suite, results), aim, "mine").met is met


def test_a_missed_aim_says_why_and_a_met_one_does_not(suite: Suite, results: Results) -> None:
    missed = {"mine": "too few levels", "other": "not this one"}
    both = (
        Aim("x", ("w3a8",), "insignificant", missed=missed),
        Aim("y", ("w8a8",), "insignificant", missed=missed),
    )
    text = acceptance(View(replace(suite, aims=both), results))
    assert "- x (mine): too few levels\n" in text
    assert text.count("too few levels") == 1 and "not this one" not in text


def test_a_choice_among_variants_on_the_test_set_is_said_and_marked(suite: Suite, results: Results) -> None:
    several = Aim("x", ("w3a8", "w8a8"), "relative", 1.0)
    text = acceptance(View(replace(suite, aims=(several,)), results))
    assert "| PTQ +500.0 %; **PTQ +0.0 %** | yes \\* |" in text and "picked on test_seen itself" in text
    for single in (Aim("x", ("w8a8",), "relative", 1.0), Aim("x", ("ada", "w3a8"), "recovers", 0.6)):
        text = acceptance(View(replace(suite, aims=(single,)), results))
        assert "picked on" not in text and "**" not in text


def test_of_several_that_lose_nothing_significant_the_one_with_the_least_loss_is_marked(
    suite: Suite, results: Results
) -> None:
    found = judge(View(suite, results), Aim("x", ("w3a8", "w8a8"), "insignificant"), "mine")
    assert found.measured == "PTQ +5.00 (p < 0.001); **PTQ +0.00 (p = 1.000)**" and found.variants == 2


@pytest.mark.parametrize("kind", ["relative", "insignificant"])
def test_of_several_the_one_that_dev_shows_best_counts(kind: str, suite: Suite, results: Results) -> None:
    aim = Aim("x", ("w3a8", "w8a8"), kind, 1.0)
    results.runs["mine/w3a8/s1"] = {"dev_wer": 10.0}
    assert not judge(View(suite, results), aim, "mine").on_dev  # the other one's is not stored
    results.runs["mine/w8a8/s1"] = {"dev_wer": 11.0}
    found = judge(View(suite, results), aim, "mine")
    assert found.on_dev and found.met is False and found.measured.startswith("**PTQ +5")
    text = acceptance(View(replace(suite, aims=(aim,)), results))
    assert "lowest error rate on dev counts (in bold).\n" in text and "\\*" not in text


def test_the_error_rate_on_dev_is_the_mean_over_all_seeds(suite: Suite, results: Results) -> None:
    results.runs["mine/qat/s1"] = {"dev_wer": 10.0}
    assert View(suite, results).dev_wer("mine/qat") is None
    results.runs["mine/qat/s2"] = {"dev_wer": 11.0}
    assert View(suite, results).dev_wer("mine/qat") == 10.5
