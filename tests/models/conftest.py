"""What the tests of the models share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import noise


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Three utterances of seeded noise `(3, 24000)` and their lengths."""
    signal, lengths = noise(3, 1.5), torch.tensor([24_000, 17_000, 9_000])
    for row, length in enumerate(lengths.tolist()):
        signal[row, length:] = 0
    return signal, lengths


@pytest.fixture(scope="session")
def attention_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SpeechBrain folder with attention decoder and language model; copy it to change it."""
    from tests.models.speechbrain_folders import write_attention_folder

    folder = tmp_path_factory.mktemp("speechbrain") / "attention"
    write_attention_folder(folder)
    return folder


@pytest.fixture(scope="session")
def wav2vec2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SpeechBrain folder with a Wav2Vec2, weight_norm as published; copy it to change it."""
    from tests.models.speechbrain_folders import write_wav2vec2_folder

    folder = tmp_path_factory.mktemp("speechbrain") / "wav2vec2"
    write_wav2vec2_folder(folder, old_weight_norm=True)
    return folder


def edited(folder: Path, to: Path, old: str, new: str) -> Path:
    """A copy of a folder, `to`, whose `hyperparams.yaml` has `new` in place of `old`."""
    shutil.copytree(folder, to)
    path = to / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return to
