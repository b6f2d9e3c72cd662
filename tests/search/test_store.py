"""Measurements are kept as they come, and read again where they are of the same."""

from __future__ import annotations

from pathlib import Path

import torch

from qat.search.cost import Costs
from qat.search.store import Store, read_tensors, write_tensors


def filled(path: Path) -> Store:
    store = Store.open(path, {"model": "a"})
    store.costs["float"] = Costs({"head": 1.5}, {"head": 40})
    store.add_loss("head", "W8A8 frame", 0.25)
    store.write()
    return store


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    filled(tmp_path / "x.json")
    again = Store.open(tmp_path / "x.json", {"model": "a"})
    assert again.loss("head", "W8A8 frame") == 0.25
    assert again.costs["float"] == Costs({"head": 1.5}, {"head": 40})


def test_measurements_of_something_else_are_not(tmp_path: Path) -> None:
    filled(tmp_path / "x.json")
    again = Store.open(tmp_path / "x.json", {"model": "b"})
    assert not again.costs
    assert again.loss("head", "W8A8 frame") is None


def test_a_damaged_file_is_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    assert not Store.open(tmp_path / "x.json", {}).losses


def test_tensors_are_read_again_where_they_are_of_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    assert read_tensors(path, {"model": "a"}) is None
    write_tensors({"counts": torch.arange(3)}, path, {"model": "a"})
    kept = read_tensors(path, {"model": "a"})
    assert kept is not None and kept["counts"].tolist() == [0, 1, 2]
    assert read_tensors(path, {"model": "b"}) is None
    path.write_bytes(b"PK")
    assert read_tensors(path, {"model": "a"}) is None
