"""From a configuration to its data module."""

from __future__ import annotations

import pytest

import datamodules
from datamodules.base import SpeechDataModule
from datamodules.build import build_data
from datamodules.mini_corpus import MiniDataModule
from tests.datamodules.corpora import error_of


@pytest.mark.parametrize("path", ["datamodules.MiniDataModule", "datamodules.mini_corpus.MiniDataModule"])
def test_a_configuration_names_its_data_module_and_arguments(path: str) -> None:
    data = build_data({"data": {"class_path": path, "init_args": {"max_batch_s": 7.0}}})
    assert type(data) is MiniDataModule and data.max_batch_s == 7.0


def test_arguments_may_be_left_out() -> None:
    for section in ({}, {"init_args": None}, {"init_args": {}}):
        assert (
            type(build_data({"data": {"class_path": "datamodules.MiniDataModule", **section}}))
            is MiniDataModule
        )


@pytest.mark.parametrize(
    "path", ["datamodules.None", "no_package.Data", "datamodules.base.rounded_up", "", None, 3]
)
def test_what_is_no_data_module_is_named(path: object) -> None:
    message = f"data.class_path is {path!r}; must be a data module"
    assert error_of(build_data, {"data": {"class_path": path}}).startswith(message)
    assert error_of(build_data, {}).startswith("data.class_path is None; must be a data module")


def test_every_data_module_that_a_configuration_may_name_is_there() -> None:
    assert all(issubclass(getattr(datamodules, name), SpeechDataModule) for name in datamodules.__all__)
