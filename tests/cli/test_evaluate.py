"""The commands of evaluate.py: their arguments, and mistakes in one line."""

from __future__ import annotations

import pytest

from qat.cli.evaluate import parse
from qat.evaluation.options import EvaluationOptions
from qat.system.errors import UserError


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["repot", "x"], "command 'repot' must be one of report, .*; did you mean 'report'?"),
        (["frob"], "command 'frob' must be one of report, transcribe, suite, compare$"),
        (["compare", "x", "--sort", "we"], "--sort 'we' must be one of wer, .*; did you mean 'wer'?"),
        (["suite", "x", "--rendr"], "suite: --rendr: must be a known option; did you mean --render?"),
        (["report", "x", "--wamrup=3"], "report: --wamrup: must be a known option; did you mean --warmup?"),
        (["compare", "x", "--no-wandbb"], "compare: --no-wandbb: .*; did you mean --no-wandb?"),
        (["transcribe", "x", "y", "--threads", "z"], "argument --threads: invalid int value: 'z'"),
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
