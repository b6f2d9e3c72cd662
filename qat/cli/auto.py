"""`train.py --qat auto`: a search in place of a preset."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from qat.cli.check import flags_of
from qat.cli.flags import expand_presets
from qat.cli.messages import refuse_option
from qat.runs import RECIPE_FILE, SEARCH_FOLDER, START_KEYS, folder_of, read_config, start_of, started_outside
from qat.search.options import SearchOptions
from qat.system.errors import UserError, first_line
from qat.system.lock import using
from qat.system.ranks import group_of_launched, launched_rank

AUTO = "auto"


def split(args: Sequence[str]) -> tuple[list[str], SearchOptions | None]:
    """Arguments without `--qat auto` and `--auto.*`, and what the search is asked; None where none is asked for.

    Raises:
        UserError: `--auto.*` without `--qat auto`, or of an unknown name or a bad value.

    >>> split(["--run", "x", "--qat", "auto", "--auto.max_loss", "0.1"])[1].max_loss
    0.1
    >>> split(["--qat", "off"])
    (['--qat', 'off'], None)
    """
    rest: list[str] = []
    given: dict[str, Any] = {}
    wanted, pending = False, iter(args)
    for item in pending:
        name, equals, value = item.partition("=")
        if name == "--qat" or name.startswith("--auto."):
            value = value if equals else next(pending, "")
        if name == "--qat" and value == AUTO:
            wanted = True
        elif name == "--qat":
            rest += [name, value]
        elif name.startswith("--auto."):
            given[name.removeprefix("--auto.")] = parsed(name, value)
        else:
            rest.append(item)
    known = [field.name for field in fields(SearchOptions)]
    for key in given:
        if key not in known:
            refuse_option(f"--auto.{key}", [f"auto.{name}" for name in known])
    if given and not wanted:
        raise UserError(f"--auto.{next(iter(given))}: must be given with --qat auto, whose search it is for")
    return rest, SearchOptions(**given) if wanted else None


def parsed(name: str, text: str) -> Any:
    """A number, or a list of numbers as in YAML; a number like 1e-3, which YAML reads as text, is one too.

    Raises:
        UserError: anything else.
    """
    try:
        value = yaml.safe_load(text)
        value = float(value) if isinstance(value, str) else value
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: {text!r} must be a number ({first_line(error, 80)})") from None
    numbers = value if isinstance(value, list) else [value]
    if not numbers or any(isinstance(item, bool) or not isinstance(item, int | float) for item in numbers):
        raise UserError(f"{name}: {text!r} must be a number")
    return value


def searched(args: Sequence[str]) -> list[str]:
    """Arguments with the recipe's file in place of `--qat auto`, after the search for it on the first process.

    The search lies beside the float start; a resumed run keeps the recipe that it began with.

    Raises:
        UserError: see `split`, the configuration names no float start on this machine, or see `qat.search.search`.
    """
    rest, options = split(args)
    if options is None:
        return list(args)
    flags = dict(flags_of(rest))
    own = folder_of(str(flags["run"])) / SEARCH_FOLDER / RECIPE_FILE if flags.get("run") else None
    if own is not None and flags.get("ckpt_path") is not None and own.is_file():
        return with_recipe(rest, own)
    if (target := str(flags.get("qat.target") or "onnxruntime")) != "onnxruntime":
        raise UserError(
            f"qat.target: {target!r}, must be onnxruntime with --qat auto, which measures that runtime"
        )
    config = settings(rest)
    start, place = start_and_folder(config)
    together = started_outside()
    if together or launched_rank() == 0:  # the processes that Lightning launches find the recipe there
        from datamodules.build import build_data
        from qat.search.search import search

        with (
            group_of_launched() if together else nullcontext(),
            using(place, "search") if launched_rank() == 0 else nullcontext(),
        ):
            search(start, place, build_data(config), config, options)
    return with_recipe(rest, place / RECIPE_FILE)


def with_recipe(rest: Sequence[str], recipe: Path) -> list[str]:
    """The recipe behind the configuration, whose rules it replaces, and before flags that change it."""
    expanded = expand_presets(rest)
    last = max(index for index, item in enumerate(expanded) if is_config(item))
    after = last + (1 if "=" in expanded[last] else 2)
    return [*expanded[:after], "--qat", str(recipe), *expanded[after:]]


def is_config(item: str) -> bool:
    """Whether an argument is `--config`."""
    return item in ("--config", "-c") or item.startswith("--config=")


def settings(rest: Sequence[str]) -> dict[str, Any]:
    """The configuration of the command line as far as a search needs it: the data, and the float start.

    Raises:
        UserError: a configuration file that cannot be read.
    """
    config: dict[str, Any] = {}
    for name, value in flags_of(expand_presets(rest)):
        if value is None:
            continue
        if name == "config":
            config = merged(config, read_config(Path(value)))
        elif name in ("data", "model"):
            config = merged(config, {name: {"class_path": value}})
        else:
            section, _, key = name.partition(".")
            if section == "data" or (section == "model" and key in START_KEYS):
                key = key.removeprefix("init_args.")
                config = merged(config, {section: {"init_args": {key: yaml.safe_load(value)}}})
    return config


def merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Two configurations, the second one's values over the first one's.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    both = {key: merged(one[key], two[key]) for key in one.keys() & two.keys() if is_pair(one[key], two[key])}
    return {**one, **two, **both}


def is_pair(one: Any, two: Any) -> bool:
    """Whether two values are mappings."""
    return isinstance(one, dict) and isinstance(two, dict)


def start_and_folder(config: dict[str, Any]) -> tuple[Path, Path]:
    """The float start's checkpoint, and the folder of its search.

    Raises:
        UserError: the configuration names none that is a checkpoint on this machine.
    """
    name = start_of(config)
    start = Path(name)
    if not name or not start.is_file():
        raise UserError(
            f"--qat auto: the float start {name or '(none)'} must be a checkpoint file on this machine; give it with "
            "--model.init_from, or run evaluate.py search on a run and give the recipe with --qat"
        )
    return start, start.parent / SEARCH_FOLDER


def keep(args: Sequence[str], run_folder: Path) -> Iterator[Path]:
    """Copy the search that a run's recipe comes from into the run's folder; yields the copies."""
    recipe = next((Path(after) for item, after in zip(args, args[1:], strict=False) if item == "--qat"), None)
    if recipe is None or recipe.name != RECIPE_FILE or recipe.parent == run_folder / SEARCH_FOLDER:
        return
    if launched_rank() != 0 or recipe.parent.name != SEARCH_FOLDER:
        return
    (run_folder / SEARCH_FOLDER).mkdir(exist_ok=True)
    for path in sorted(recipe.parent.iterdir()):
        if path.suffix in (".yaml", ".json", ".png"):
            shutil.copyfile(path, run_folder / SEARCH_FOLDER / path.name)
            yield run_folder / SEARCH_FOLDER / path.name
