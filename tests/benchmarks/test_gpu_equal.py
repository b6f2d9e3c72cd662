"""Two checkpoints or files are equal only where every bit is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_equal import compared, files, weights

CHECKPOINT: dict[str, Any] = {
    "state_dict": {"a": torch.tensor([1.0, 0.0, torch.nan]), "b": torch.tensor([3])},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0)}}}],
    "global_step": 4,
}


def stored(folder: Path, *contents: Any) -> argparse.Namespace:
    paths = [folder / f"{number}.ckpt" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        torch.save(content, path)
    return argparse.Namespace(arguments=list(map(str, paths)))


def test_equal_checkpoints_are_equal_nan_and_all(tmp_path: Path) -> None:
    equal, values = weights(stored(tmp_path, CHECKPOINT, CHECKPOINT))
    assert equal and values == {"tensors_that_differ": 0, "first": "", "steps": 4}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (
            {"state_dict": {**CHECKPOINT["state_dict"], "a": torch.tensor([1.0, -0.0, torch.nan])}},
            ".state_dict.a",
        ),
        ({"state_dict": {"a": CHECKPOINT["state_dict"]["a"]}}, ".state_dict (its keys)"),
        ({"optimizer_states": []}, ".optimizer_states (its length)"),
        ({"global_step": 3}, ".global_step"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, change: dict[str, Any], first: str) -> None:
    equal, values = weights(stored(tmp_path, CHECKPOINT, {**CHECKPOINT, **change}))
    assert not equal and values["first"] == first


def test_tensors_of_another_type_differ() -> None:
    assert not all(same for _, same in compared("x", torch.zeros(4), torch.zeros(2, dtype=torch.float64)))


def test_files_are_compared_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"abd!")
    paths = [str(tmp_path / name) for name in "aab"]
    assert files(argparse.Namespace(arguments=paths[:2])) == (True, {"bytes": 3, "bytes_that_differ": 0})
    assert files(argparse.Namespace(arguments=paths[1:])) == (False, {"bytes": 3, "bytes_that_differ": 2})
