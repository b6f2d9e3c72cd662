"""The data module of a fit."""

from __future__ import annotations

from lightning.pytorch import Trainer

from datamodules.base import SpeechDataModule


def data_of(trainer: Trainer) -> SpeechDataModule:
    """The data module that `trainer` fits on."""
    data = getattr(trainer, "datamodule", None)
    assert isinstance(data, SpeechDataModule)
    return data
