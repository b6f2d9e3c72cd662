"""What a parser says becomes one line: the name, what it must be, and the nearest option."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from jsonargparse import ArgumentParser

from qat.cli.messages import LONGEST, OneLineErrors, one_line
from qat.system.errors import UserError


@dataclass
class Part:
    """Something inside."""

    bits: int = 8
    names: list[str] | None = None


class Parser(OneLineErrors, ArgumentParser):
    """Takes a whole number and a part."""


@pytest.fixture
def parser() -> Parser:
    made = Parser()
    made.add_argument("--count", type=int, default=1)
    made.add_argument("--parts", type=list[Part], default=[])
    made.add_class_arguments(Part, "part")
    return made


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--cuont", "2"], "--cuont: must be a known option; did you mean --count?"),
        (["--part.bit=2"], "--part.bit: must be a known option; did you mean --part.bits?"),
        (["--prat.bits=2"], "--prat.bits: must be a known option; did you mean --part.bits?"),
        (["--bits=2"], "--bits: must be a known option; did you mean --part.bits?"),
        (["--frobnicate"], "--frobnicate: must be a known option"),
        (["--count", "x"], "count: 'x' must be a whole number"),
        (["--part.bits", "1.5"], "part.bits: 1.5 must be a whole number"),
        (["--part.names", "1"], "part.names: 1 must be a list or null"),
        (["--parts", "[{bit: 2}]"], "parts.bit: must be a known option; did you mean parts.bits?"),
        (["--part", '{"bit": 2}'], "part.bit: must be a known option; did you mean part.bits?"),
    ],
)
def test_a_mistake_is_reported_with_its_name_and_the_nearest_option(
    parser: Parser, args: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        parser.parse_args(args)
    assert str(caught.value) == message


def test_a_flag_may_not_be_abbreviated(parser: Parser) -> None:
    with pytest.raises(UserError, match="--coun: must be a known option"):
        parser.parse_args(["--coun", "2"])


def test_a_long_message_is_cut() -> None:
    assert len(one_line("word " * 1000)) == LONGEST


def test_an_empty_message_says_something() -> None:
    assert one_line("\n") == "bad arguments"


def test_a_group_of_options_without_a_class_says_how_to_name_one(parser: Parser) -> None:
    message = (
        'Parser key "data":\n  Expected an instantiatable class, but datamodules.SpeechDataModule is abstract'
    )
    with pytest.raises(UserError) as caught:
        parser.error(message)
    named = "data: must name a class, by data.class_path in the configuration or --data NAME"
    assert str(caught.value) == named
