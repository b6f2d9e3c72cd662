"""Mistakes on train.py's command line that can be reported at once, before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from qat.cli.flags import expand_presets
from qat.cli.messages import refuse_option
from qat.cli.options import OWN, TOP_LEVEL, WITHOUT_VALUE, OwnParser, add_own_arguments
from qat.decoding.options import DecodingOptions
from qat.evaluation.options import EvaluationOptions
from qat.recipe import Recipe
from qat.runs import checkpoint_to_resume, folder_of, read_config, refuse_used_folder
from qat.runtime.formats import ExportOptions

Flag = tuple[str, str | None]


def check_arguments(args: Sequence[str]) -> None:
    """Refuse unknown presets, flags and configuration files, bad values of our own options, and a run folder in use.

    What belongs to the model, the data and the trainer is left to the whole parser.

    Raises:
        UserError: naming the flag, and the nearest that is known.
    """
    flags = flags_of(expand_presets(args))
    parser = OwnParser()
    add_own_arguments(parser)
    known = [*TOP_LEVEL, *parser.known_options()]
    for name, _ in flags:
        if top_of(name) not in (*TOP_LEVEL, *WITHOUT_VALUE):
            refuse_option(f"--{name}", known)
    for name, value in flags:
        if name == "config" and value is not None:
            check_config(value, parser)
    own = [f"--{name}={value}" for name, value in flags if top_of(name) in OWN and value is not None]
    options = parser.parse_args(own)
    recipe_builtins(options["qat"])
    DecodingOptions.from_dict(options["decoding"].as_dict())
    EvaluationOptions(**options["evaluation"].as_dict())
    ExportOptions(**options["export"].as_dict())
    check_run(options["run"], options["ckpt_path"])


def flags_of(args: Sequence[str]) -> list[Flag]:
    """Name (without dashes) and value of each flag; None where no value follows.

    >>> flags_of(["--run", "x", "--qat.seed=3", "-c", "a.yaml", "--print_config"])
    [('run', 'x'), ('qat.seed', '3'), ('config', 'a.yaml'), ('print_config', None)]
    """
    found: list[Flag] = []
    for item, after in zip(args, [*args[1:], "--"], strict=True):
        if item == "-c" or (item.startswith("--") and len(item) > 2):
            name, equals, value = item.lstrip("-").partition("=")
            separate = None if after.startswith("--") or name in WITHOUT_VALUE else after
            found.append(("config" if name == "c" else name, value if equals else separate))
    return found


def top_of(name: str) -> str:
    """The first part of a dotted flag; `qat.rules+` and `qat.rules` are one (the first appends to a list)."""
    return name.partition(".")[0].rstrip("+")


def check_config(value: str, parser: OwnParser) -> None:
    """Refuse a configuration file that is missing, is no mapping, or has unknown sections or options of ours.

    Raises:
        UserError: naming the file or the field.
    """
    if "://" in value or (not Path(value).is_file() and is_mapping(value)):
        return  # a remote file, or the configuration itself
    config = read_config(Path(value))
    for key in config:
        if key not in TOP_LEVEL:
            refuse_option(str(key), TOP_LEVEL, where=f"{value}: ")
    parser.parse_object({key: part for key, part in config.items() if key in OWN and isinstance(part, dict)})


def is_mapping(text: str) -> bool:
    """Whether a text is a YAML mapping."""
    try:
        return isinstance(yaml.safe_load(text), dict)
    except yaml.YAMLError:
        return False


def check_run(name: str | None, checkpoint: str | None) -> None:
    """Refuse a named run whose folder is in use, or that lacks the checkpoint to resume from.

    Raises:
        UserError: naming the flag.
    """
    if name:
        refuse_used_folder(name, resumes=checkpoint is not None)
        if checkpoint is not None:
            checkpoint_to_resume(folder_of(name), checkpoint)


def recipe_builtins(recipe: Any) -> dict[str, Any]:
    """The parsed recipe as builtins, which every checkpoint can carry.

    Raises:
        UserError: a value that is not allowed.
    """
    values = recipe.as_dict()
    values.pop("__path__", None)  # where the parser read a preset from
    return Recipe.from_dict(values).to_dict()
