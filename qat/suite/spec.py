"""What a suite file says: rows to run, tables that they fill, aims that they are judged by."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from qat.runs import read_config, start_of
from qat.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SUITES = ROOT / "configs" / "suites"
FLOAT = "float"
AIM_KINDS = ("insignificant", "relative", "recovers")


@dataclass(frozen=True)
class SuiteRow:
    """One row: a training command, run once per seed.

    Args:
        model: of the suite.
        name: unique in the model.
        title: what the tables call it.
        args: flags of train.py after `--config`.
        seeds: of training and calibration.
    """

    model: str
    name: str
    title: str
    args: tuple[str, ...]
    seeds: tuple[int, ...] = (1,)

    @property
    def id(self) -> str:
        """`model/name`, the report's `suite_row`."""
        return f"{self.model}/{self.name}"


@dataclass(frozen=True)
class Published:
    """One row of a published table, and our rows that correspond to it.

    Args:
        name: as published; empty for a row that only we have.
        wer: published error rate, percent; None where there was none.
        time_s: published seconds.
        rows: names in the suite.
    """

    name: str
    rows: tuple[str, ...]
    wer: float | None = None
    time_s: float | None = None


@dataclass(frozen=True)
class SuiteTable:
    """One table of the document.

    Args:
        heading: number and title.
        model: of the suite.
        rows: in the published order.
        also: further models, whose rows of the same names follow as a group of their own each.
    """

    heading: str
    model: str
    rows: tuple[Published, ...]
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Aim:
    """One thing that the suite is to show, for each model that has the rows; judged on the first split.

    Args:
        text: what.
        rows: row names; the best of them counts.
        kind: `insignificant` (difference to float), `relative` (loss over float at most `limit`), or `recovers` (the
            first row at least the share `limit` of what the second loses).
        limit: a share.
        missed: model -> why it missed this aim; shown where it does.
        models: that it is for; empty means all.
    """

    text: str
    rows: tuple[str, ...]
    kind: str
    limit: float = 0.0
    missed: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """What a suite file says.

    Args:
        name: of the file.
        title: of the results.
        configs: model -> configuration file.
        rows: all rows, models in turn.
        tables: which rows fill them.
        curves: method -> row names by falling bits, for figures and the table of bits; a name may be missing in a
            model, or be empty where a method has no row of these bits.
        aims: what the results are judged by.
        quick: flags that make every run small.
    """

    name: str
    title: str
    configs: Mapping[str, Path]
    rows: tuple[SuiteRow, ...]
    tables: tuple[SuiteTable, ...]
    curves: Mapping[str, tuple[str, ...]]
    aims: tuple[Aim, ...] = ()
    quick: tuple[str, ...] = ()

    def row(self, row_id: str) -> SuiteRow:
        """The row `model/name`."""
        return next(row for row in self.rows if row.id == row_id)


def suite_names() -> list[str]:
    """Suites that ship."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name: str, configs: Mapping[str, str] | None = None) -> Suite:
    """Read a suite by name or path.

    Args:
        name: of a shipped suite, or a YAML file.
        configs: model -> configuration file in place of the suite's.

    Raises:
        UserError: no such suite, an unknown model, or a table that names a row that is not there.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"suite {name!r}: must be one of {', '.join(suite_names())}, or a YAML file")
    content = read_config(path)
    for key in ("models", "rows", "tables"):
        if not content.get(key):
            raise UserError(f"{path}: {key} is missing or empty, must have at least one entry")
    for model in configs or {}:
        if model not in content["models"]:
            raise UserError(
                f"--config {model}: must be one of the suite's models {', '.join(content['models'])}"
            )
    files = {model: str((configs or {}).get(model, file)) for model, file in content["models"].items()}
    suite = Suite(
        name=path.stem,
        title=str(content.get("title", path.stem)),
        configs={model: Path(file) for model, file in files.items()},
        rows=_rows(content, files),
        tables=tuple(_table(item) for item in content["tables"]),
        curves={method: tuple(names) for method, names in (content.get("curves") or {}).items()},
        aims=tuple(_aim(item) for item in content.get("aims") or []),
        quick=tuple(shlex.split(content.get("quick", ""))),
    )
    check_names(suite, path)
    return suite


def substitute(text: str, words: Mapping[str, str]) -> str:
    """`$NAME` replaced by its words, which may hold further names.

    >>> substitute("--a $b", {"b": "--c $d", "d": "--e $start", "start": "x.ckpt"})
    '--a --c --e x.ckpt'
    """
    for _ in words:
        text = Template(text).safe_substitute(words)
    return text


def _rows(content: Mapping[str, Any], files: Mapping[str, str]) -> tuple[SuiteRow, ...]:
    """All rows, models in turn; `$start` in their flags is the float start of the model's configuration.

    `flags` of the file follow the flags of each row of a model.
    """
    common = content.get("flags") or {}
    words = {
        model: {**(content.get("words") or {}), "start": shlex.quote(start_of(read_config(Path(file))))}
        for model, file in files.items()
    }
    return tuple(
        SuiteRow(
            model,
            name,
            str(values.get("title", name)),
            tuple(shlex.split(substitute(f"{values['args']} {common.get(model, '')}", words[model]))),
            tuple(values.get("seeds", (1,))),
        )
        for model, described in content["rows"].items()
        for name, values in described.items()
    )


def _table(item: Mapping[str, Any]) -> SuiteTable:
    rows = [
        Published(str(line.get("published", "")), tuple(line["rows"]), line.get("wer"), line.get("time_s"))
        for line in item["rows"]
    ]
    return SuiteTable(str(item["heading"]), str(item["model"]), tuple(rows), tuple(item.get("also", ())))


def _aim(item: Mapping[str, Any]) -> Aim:
    return Aim(**{**item, "rows": tuple(item["rows"]), "models": tuple(item.get("models", ()))})


def check_names(suite: Suite, path: Path) -> None:
    """Every table names a model and rows that exist; every configuration is there.

    Raises:
        UserError: naming the first that is not.
    """
    models = ", ".join(suite.configs)
    known = {row.id for row in suite.rows} | {f"{model}/{FLOAT}" for model in suite.configs}
    for table in suite.tables:
        for model in (table.model, *table.also):
            if model not in suite.configs:
                raise UserError(
                    f"{path}: table {table.heading!r}: model is {model!r}, must be one of {models}"
                )
            missing = [name for line in table.rows for name in line.rows if f"{model}/{name}" not in known]
            if missing:
                raise UserError(f"{path}: table {table.heading!r}: {missing[0]!r} must be a row of {model}")
    for aim in suite.aims:
        if aim.kind not in AIM_KINDS:
            raise UserError(
                f"{path}: aim {aim.text!r}: kind is {aim.kind!r}, must be one of {', '.join(AIM_KINDS)}"
            )
        for name in aim.rows:
            if not any(row.name == name for row in suite.rows):
                raise UserError(f"{path}: aim {aim.text!r}: {name!r} must be a row of some model")
        for key, named in (("missed", aim.missed), ("models", aim.models)):
            for model in named:
                if model not in suite.configs:
                    raise UserError(
                        f"{path}: aim {aim.text!r}: {key} names {model!r}, must be one of {models}"
                    )
    for row in suite.rows:
        if row.model not in suite.configs:
            raise UserError(f"{path}: rows of {row.model!r}, must be of one of {models}")
        if not row.seeds or not all(type(seed) is int and seed >= 1 for seed in row.seeds):
            raise UserError(f"{path}: row {row.id}: seeds is {list(row.seeds)}, must be integers from 1")
    for file in suite.configs.values():
        read_config(file)
