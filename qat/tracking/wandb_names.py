"""Names and limits that everything on Weights & Biases shares; needs neither W&B nor Lightning."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from qat.runs import CONFIG_FILE, REPORT_FILE, UTTERANCES_FILE
from qat.system.ranks import launched_rank

PROJECT = "speech-qat"
ID_FILE = "wandb_id"
LOGGED_FILE = "wandb_logged.json"
REPORT_FILES = (REPORT_FILE, UTTERANCES_FILE, CONFIG_FILE)  # what `evaluate.py compare` needs of a run
REPORT_TYPE = "report"
START_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 120.0


def group_of(config: Mapping[str, Any]) -> str:
    """The group of a run by its configuration: the configured one, else its model's class."""
    model: Mapping[str, Any] = config.get("model") or {}
    group = (config.get("wandb") or {}).get("group")
    return str(group or str(model.get("class_path", "")).rpartition(".")[2])


def print_notice(line: str) -> None:
    """Print one plain line to stderr, on the first rank only."""
    if launched_rank() == 0:
        print(line, file=sys.stderr, flush=True)
