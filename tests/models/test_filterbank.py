"""Features of a filterbank, and the frames that are pooled from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qat.models.filterbank import normalise_features
from tests.conftest import build, noise
from tests.models.attention_models import attention_model


def test_feature_normalisation_ignores_padding() -> None:
    x = torch.randn(2, 30, 5)
    alone, _ = normalise_features(x[1:, :20], torch.tensor([20]))
    together, _ = normalise_features(x, torch.tensor([30, 20]))
    torch.testing.assert_close(together[1:, :20], alone, atol=1e-6, rtol=0)
    assert together[1, 20:].abs().max() == 0


@pytest.mark.parametrize("name", ["crdnn", "wav2vec2", "attention"])
@pytest.mark.parametrize("samples", [400, 720, 1_000, 4_799, 4_800, 16_000])
def test_the_frames_counted_are_those_that_the_model_emits(name: str, samples: int, tmp_path: Path) -> None:
    model = attention_model(tmp_path) if name == "attention" else build(name)
    with torch.no_grad():
        _, frames = model.eval()(noise(1, 1.0)[:, :samples], torch.tensor([samples]))
    assert model.emitted_frames(samples) == int(frames)
