"""What both models share: padding, the recipe's reach, folding, the float start."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import nn

from qat.layers.swap import quant_layers
from qat.models.loading import save_module
from qat.recipe import Recipe
from tests.conftest import build
from tests.models.conftest import padded_batch


@torch.no_grad()
def test_the_output_is_the_same_alone_and_in_a_padded_batch(kind: str) -> None:
    model = build(kind).eval()
    signal, lengths = padded_batch()
    together, frames = model(signal, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, count = model(signal[row : row + 1, :length], lengths[row : row + 1])
        assert int(count) == int(frames[row]) == alone.shape[1]
        # SpeechBrain's convolutions mirror the last frames at the true end, where the batch has padding.
        edge = 4 if kind == "crdnn" else 0
        kept = int(count) - edge
        tolerance = 2e-2 if kind == "crdnn" else 1e-5  # the LSTM carries that edge backwards
        torch.testing.assert_close(together[row, :kept], alone[0, :kept], atol=tolerance, rtol=0)


def test_every_weight_is_quantized_by_default(kind: str) -> None:
    model = build(kind, Recipe(preset="deterministic"))
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM)
    plain = [name for name, layer in model.named_modules() if isinstance(layer, kinds)]
    assert [name for name, _ in quant_layers(model)] == plain
    assert not model.swap_report.skipped


def test_groups_cover_every_quantized_layer(kind: str) -> None:
    model = build(kind, Recipe(preset="deterministic"))
    for name, _ in quant_layers(model):
        owners = [g for g, patterns in model.groups.items() if any(fnmatch(name, p) for p in patterns)]
        assert len(owners) == 1, name


def test_float_start_gives_the_quantized_model_the_same_function(kind: str, tmp_path: Path) -> None:
    model = build(kind).eval()
    save_module(model, tmp_path / "float.ckpt")
    torch.manual_seed(99)
    arguments = {"init_from": str(tmp_path / "float.ckpt")}
    quantized = build(kind, Recipe(preset="stochastic"), **arguments).eval()
    signal, lengths = padded_batch()
    assert torch.equal(quantized(signal, lengths)[0], model(signal, lengths)[0])
