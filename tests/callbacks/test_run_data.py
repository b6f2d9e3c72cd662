"""The data module of a fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from datamodules.base import SpeechDataModule
from qat.callbacks.run_data import data_of


def test_a_fit_has_a_data_module_of_ours_or_none(tiny_data: SpeechDataModule) -> None:
    trainer: Any = SimpleNamespace(datamodule=tiny_data)
    assert data_of(trainer) is tiny_data
    for other in (SimpleNamespace(), SimpleNamespace(datamodule=None)):
        with pytest.raises(AssertionError):
            data_of(other)  # type: ignore[arg-type]
