"""`evaluate.py search` hands its flags on, and refuses mistakes before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qat.cli.evaluate import parse
from qat.cli.search import search
from qat.search import search as found
from qat.search.options import SearchOptions
from qat.system.errors import UserError


def test_every_flag_reaches_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.ckpt").write_text("")
    (tmp_path / "config.yaml").write_text("data: {class_path: datamodules.MiniDataModule}")
    given: list[Any] = []

    def stub(checkpoint: Path, folder: Path, data: Any, config: Any, options: SearchOptions) -> Path:
        given.extend([checkpoint, folder, type(data).__name__, options])
        return folder

    monkeypatch.setattr(found, "search", stub)
    flags = [
        "--max_latency",
        "12.5",
        "--bits",
        "8",
        "3",
        "--utterances",
        "5",
        "--calibration_utterances",
        "6",
    ]
    flags += ["--seed", "7", "--threads", "2"]
    search(parse(["search", str(tmp_path), *flags]))
    checkpoint, folder, data, options = given
    assert (checkpoint, folder, data) == (tmp_path / "model.ckpt", tmp_path / "search", "MiniDataModule")
    expected = {"max_latency": 12.5, "bits": [8, 3], "utterances": 5, "calibration_utterances": 6}
    assert options == SearchOptions(**expected, seed=7, threads=2)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one of the runs here"):
        search(parse(["search", str(tmp_path / "nothing.ckpt")]))
    with pytest.raises(UserError, match="max_loss and max_size_mb must be one budget"):
        search(parse(["search", "x", "--max_loss", "1", "--max_size_mb", "1"]))
    with pytest.raises(UserError, match="--bits '5' must be one of 8, 4, 3, 2"):
        parse(["search", "x", "--bits", "5"])
