"""Test data is never touched by a search."""

from __future__ import annotations

import pytest

from datamodules.base import SpeechDataModule
from qat.search.sealed import TestDataTouchedError, sealed


def test_test_data_cannot_be_read(tiny_data: SpeechDataModule) -> None:
    with sealed(tiny_data):
        for split in tiny_data.test_splits:
            with pytest.raises(TestDataTouchedError):
                tiny_data.utterances(split)
            with pytest.raises(TestDataTouchedError):
                tiny_data.split_fingerprint(split)
        with pytest.raises(TestDataTouchedError):
            tiny_data.test_dataloader()


def test_train_and_dev_can(tiny_data: SpeechDataModule) -> None:
    with sealed(tiny_data):
        assert len(tiny_data.utterances("train")) == 12
        assert len(tiny_data.utterances("dev")) == 4


def test_the_seal_ends_with_the_block(tiny_data: SpeechDataModule) -> None:
    with pytest.raises(ValueError, match="stop"), sealed(tiny_data):
        raise ValueError("stop")
    assert len(tiny_data.utterances(tiny_data.test_splits[0])) == 4
    assert len(tiny_data.test_dataloader()) == 1
