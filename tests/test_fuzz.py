"""Mutated inputs end with the right answer or one line; `python -m tests.fuzz_inputs` tries more of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import attempt
from tests.fuzz_inputs import KINDS


@pytest.mark.parametrize("name", list(KINDS))
def test_a_valid_input_is_read(name: str, tmp_path: Path) -> None:
    (valid := tmp_path / "now").mkdir()
    kind = KINDS[name]
    kind.make(valid)
    if name == "audio":
        (valid / "a.flac").unlink()
        (valid / "a.ogg").unlink()
    if name == "manifest":
        (valid / "m.csv").unlink()
    arguments = ["--config", str(valid / "config.yaml")] if name in ("config", "flags") else []
    assert kind.use(valid, arguments) == ""


@pytest.mark.parametrize("name", list(KINDS))
def test_a_mutated_input_is_read_rightly_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (valid := tmp_path / "valid").mkdir()
    KINDS[name].make(valid)
    wrong = {seed: attempt(KINDS[name], valid, tmp_path / "now", seed) for seed in range(10_000, 10_008)}
    assert not {seed: what for seed, what in wrong.items() if what}


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("config", 1),
        ("config", 51),
        ("config", 141),
        ("manifest", 41),
        ("checkpoint", 49),
        ("checkpoint", 108),
        ("hugging_face", 1099),
        ("hugging_face", 1160),
    ],
)
def test_what_once_went_wrong_is_refused_in_one_line(name: str, seed: int, tmp_path: Path) -> None:
    (valid := tmp_path / "valid").mkdir()
    KINDS[name].make(valid)
    assert attempt(KINDS[name], valid, tmp_path / "now", seed) == ""
