"""Models from files, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qat.models.checkpoint import read_checkpoint, write_checkpoint
from qat.models.loading import load_module, save_module
from qat.recipe import Recipe
from qat.system.errors import UserError
from tests.conftest import build
from tests.models.conftest import padded_batch


def test_saved_module_loads_equal_with_weights_only(kind: str, tmp_path: Path) -> None:
    model = build(kind, Recipe(preset="ptq_max")).eval()
    model.fold_batch_norm()
    save_module(model, tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)
    loaded = load_module(tmp_path / "model.ckpt")
    signal, lengths = padded_batch()
    assert torch.equal(loaded(signal, lengths)[0], model(signal, lengths)[0])
    assert loaded.recipe == model.recipe


def test_a_class_that_this_version_does_not_know_is_named(tmp_path: Path) -> None:
    save_module(build("crdnn"), tmp_path / "model.ckpt")
    write_checkpoint(
        {**read_checkpoint(tmp_path / "model.ckpt"), "model": "qat.models.Whisper"}, tmp_path / "other.ckpt"
    )
    with pytest.raises(
        UserError, match=r"'qat\.models\.Whisper', must be one of CRDNNModule, Wav2Vec2Module"
    ):
        load_module(tmp_path / "other.ckpt")
