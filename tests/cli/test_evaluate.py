"""The commands of evaluate.py: their arguments, and mistakes in one line."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from qat.cli.evaluate import parse, run
from qat.decoding.options import DecodingOptions
from qat.evaluation.options import EvaluationOptions
from qat.system.errors import UserError


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["repot", "x"], "command 'repot' must be one of report, .*; did you mean 'report'?"),
        (["frob"], "command 'frob' must be one of report, transcribe, suite, compare, search$"),
        (["compare", "x", "--sort", "we"], "--sort 'we' must be one of wer, .*; did you mean 'wer'?"),
        (["suite", "x", "--rendr"], "suite: --rendr: must be a known option; did you mean --render?"),
        (["report", "x", "--wamrup=3"], "report: --wamrup: must be a known option; did you mean --warmup?"),
        (["compare", "x", "--no-wandbb"], "compare: --no-wandbb: .*; did you mean --no-wandb?"),
        (["transcribe", "x", "y", "--threads", "z"], "argument --threads: invalid int value: 'z'"),
        (["report", "x", "--decoding.bem", "3"], "--decoding.bem: .*; did you mean --decoding.beam?"),
        (
            ["report", "x", "--decoding.use_eos_threshold", "so"],
            "use_eos_threshold: invalid truth value: 'so'",
        ),
        (["report"], "the following arguments are required: RUN|CKPT"),
        ([], "the following arguments are required: command"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_name(args: list[str], message: str) -> None:
    pattern = message.replace("?", r"\?").replace("|", r"\|")
    with pytest.raises(UserError, match=pattern) as caught:
        parse(args)
    assert str(caught.value).startswith("evaluate.py") and "\n" not in str(caught.value)


def test_defaults_of_a_report_are_those_of_training() -> None:
    options = parse(["report", "one", "two"])
    assert options.targets == ["one", "two"]
    assert all(options.__dict__[name] == getattr(EvaluationOptions(), name) for name in ("threads", "warmup"))


def test_flags_may_stand_anywhere() -> None:
    options = parse(["suite", "--quick", "seed_tables", "--only", "a*", "b*", "--jobs", "3"])
    assert (options.name, options.quick, options.only, options.jobs) == ("seed_tables", True, ["a*", "b*"], 3)


def test_a_report_takes_settings_of_the_search_and_beams() -> None:
    options = parse(
        ["report", "x", "--decoding.beam", "3", "--decoding.use_eos_threshold", "false", "--beams", "1", "8"]
    )
    assert (getattr(options, "decoding.beam"), getattr(options, "decoding.use_eos_threshold")) == (3, False)
    assert options.beams == [1, 8] and getattr(options, "decoding.lm_weight") is None
    for field in fields(DecodingOptions):
        assert hasattr(options, f"decoding.{field.name}")


def test_settings_of_the_search_reach_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr("qat.cli.report.report", lambda *arguments: called.extend(arguments))
    flags = ["--threads", "2", "--provider", "cuda", "--format", "qdq"]
    run(["report", "x", "--decoding.method", "ctc_greedy", *flags])
    targets, config, options, decoding, file_format = called
    assert (targets, config, file_format) == (["x"], None, "qdq")
    assert options == EvaluationOptions(threads=2, provider="cuda")
    assert decoding == DecodingOptions(method="ctc_greedy")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["compare", "a", "b", "--seed=-1"], "argument --seed: '-1' must be a whole number from 0"),
        (["report", "a", "--repeats=0"], "evaluation.repeats: 0, must be a whole number from 1"),
        (["report", "a", "--threads=-2"], "evaluation.threads: -2, must be a whole number from 1"),
    ],
)
def test_a_number_outside_its_range_is_refused(args: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(args)
