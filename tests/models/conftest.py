"""What the tests of the models share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from qat.layers.equalize import input_range, scale_pair_, unfit_reason
from qat.models.ctc import CTCModule
from tests.conftest import noise


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Three utterances of seeded noise `(3, 24000)` and their lengths."""
    signal, lengths = noise(3, 1.5), torch.tensor([24_000, 17_000, 9_000])
    for row, length in enumerate(lengths.tolist()):
        signal[row, length:] = 0
    return signal, lengths


LENGTHS = (24_000, 17_003, 23_999, 9_059, 1_599, 800, 479, 160, 1)  # the last five are below `SHORTEST`


def ragged_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of `LENGTHS` samples, zero-padded `(B, 24000)`, in an order of the seed, and the lengths."""
    order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(seed))
    signal, lengths = noise(len(LENGTHS), 1.5)[order], torch.tensor(LENGTHS)[order]
    return signal.masked_fill(torch.arange(24_000) >= lengths[:, None], 0.0), lengths


def norms_of_noise_(model: torch.nn.Module) -> None:
    """Scales and shifts of norms as after training: padding would no longer be zero behind them."""
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm | torch.nn.GroupNorm | torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.weight, 1.0, 0.2)
            torch.nn.init.normal_(module.bias, 0.0, 0.5)


@torch.no_grad()
def scaled_by_powers_of_two(model: CTCModule) -> int:
    """Scale each pair that can be scaled by random powers of two; no bit of the output may change. Their number."""
    from tests.models.attention_models import batch_of

    pairs = [pair for pair in model.scale_pairs() if not unfit_reason(model, pair)]
    batch = batch_of(1)
    before = model.posteriors(batch)[0]
    for pair in pairs:
        width = len(input_range(model.get_submodule(pair.consumers[0])))
        scale_pair_(model, pair, torch.exp2(torch.randint(-6, 7, (width,)).float()))
        assert torch.equal(model.posteriors(batch)[0], before), pair.name
    return len(pairs)


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
