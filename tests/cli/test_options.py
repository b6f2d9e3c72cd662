"""The options of our own are those of the whole parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qat.cli import train as cli
from qat.cli.options import OWN, TOP_LEVEL, OwnParser, WandbOptions, add_own_arguments
from qat.decoding.options import DecodingOptions
from qat.evaluation.options import EvaluationOptions
from qat.recipe import Recipe


class KeepParser(cli.SpeechCLI):
    """Builds the parser, parses nothing."""

    def parse_arguments(self, *_: Any) -> None:
        """Stop here."""
        raise InterruptedError

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Keep it."""
        super().add_arguments_to_parser(parser)
        type(self).kept = parser

    kept: Any = None


def test_the_quick_parser_knows_every_section_and_option_of_the_whole_one() -> None:
    quick = OwnParser()
    add_own_arguments(quick)
    with pytest.raises(InterruptedError):
        KeepParser(
            cli.CTCModule, cli.SpeechDataModule, subclass_mode_model=True, subclass_mode_data=True,
            parser_class=cli.OneLineParser, args=[], run=False, auto_configure_optimizers=False,
            save_config_callback=None,
        )  # fmt: skip
    whole = KeepParser.kept.known_options()
    assert {name.partition(".")[0] for name in whole} | {"config"} == set(TOP_LEVEL)
    assert quick.known_options() == [name for name in whole if name.partition(".")[0] in OWN]


def test_defaults_are_those_of_the_classes() -> None:
    quick = OwnParser()
    add_own_arguments(quick)
    options = quick.instantiate_classes(quick.parse_args([]))
    assert Recipe(**vars(options.qat)) == Recipe()
    assert EvaluationOptions(**vars(options.evaluation)) == EvaluationOptions()
    assert DecodingOptions(**vars(options.decoding)) == DecodingOptions()
    assert WandbOptions(**vars(options.wandb)) == WandbOptions()


def test_equalization_is_a_flag_and_a_line_of_a_preset(tmp_path: Path) -> None:
    """The word `none` stays a word, in YAML too."""
    preset = tmp_path / "mine.yaml"
    preset.write_text("preset: mine\nequalize: none\n")
    quick = OwnParser()
    add_own_arguments(quick)
    read = quick.parse_args(["--qat", str(preset)]).qat
    assert (read.equalize, read.smooth_alpha) == ("none", 0.5)
    changed = quick.parse_args(
        ["--qat", str(preset), "--qat.equalize", "smooth", "--qat.smooth_alpha", "0.6"]
    ).qat
    assert (changed.equalize, changed.smooth_alpha) == ("smooth", 0.6)
