"""`evaluate.py search`: find a recipe for a model."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from qat.cli.report import config_of
from qat.runs import SEARCH_FOLDER, find_checkpoint, read_config
from qat.search.options import SearchOptions
from qat.system.lock import using


def search(options: argparse.Namespace) -> Path:
    """Search a recipe for a run or checkpoint.

    Args:
        options: parsed; `target`, `config`, `out` and the fields of `SearchOptions`.

    Returns:
        The recipe's file.

    Raises:
        UserError: there is no such run or configuration (before PyTorch is imported), or see `qat.search.search`.
    """
    asked = SearchOptions(**{field.name: getattr(options, field.name) for field in fields(SearchOptions)})
    checkpoint = find_checkpoint(options.target)
    config = read_config(config_of(checkpoint, options.config))
    folder = options.out or checkpoint.parent / SEARCH_FOLDER
    from datamodules.build import build_data
    from qat.search.search import search as find

    folder.mkdir(parents=True, exist_ok=True)
    with using(folder, "search"):
        return find(checkpoint, folder, build_data(config), config, asked)
