"""From a configuration to its data module."""

import importlib
from typing import Any

from datamodules.base import SpeechDataModule
from qat.system.errors import UserError


def build_data(config: dict[str, Any]) -> SpeechDataModule:
    """The data module that a configuration names.

    Args:
        config: with `data.class_path`, such as `datamodules.MiniDataModule`, and `data.init_args`.

    Raises:
        UserError: `data.class_path` names no data module.
    """
    section = config.get("data") or {}
    path = section.get("class_path")
    module, _, name = str(path or "").rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "datamodules"), name)
    except (ImportError, AttributeError):
        found = None
    if not (isinstance(found, type) and issubclass(found, SpeechDataModule)):
        raise UserError(
            f"data.class_path is {path!r}; must be a data module, such as datamodules.MiniDataModule"
        )
    return found(**section.get("init_args") or {})
