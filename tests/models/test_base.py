"""What both models share: padding, the recipe's reach, folding, the float start."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.utils.data import DataLoader

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.layers.swap import quant_layers
from qat.models.loading import save_module
from qat.recipe import Recipe
from tests.callbacks.fits import fit
from tests.conftest import build, noise
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


def test_off_trains_exactly_as_the_plain_model(kind: str, tiny_data: SpeechDataModule) -> None:
    """The first invariant: a recipe that is off changes nothing, step after step."""
    states = []
    for recipe in (None, Recipe(preset="off", weight_bits=4, rounding="stochastic")):
        L.seed_everything(3)
        model = build(kind, recipe)
        fit(model, tiny_data)
        states.append(model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_a_fused_optimiser_is_clipped_under_bf16_as_any_other(
    algorithm: str, tiny_data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU steps are fused; Lightning refuses to clip gradients before them, though bfloat16 has no scale."""
    clipped: list[float] = []
    ends = []
    for fused in (True, False):

        def optimiser(groups: list[Any], rate: float, _: bool, fused: bool = fused) -> AdamW:
            return AdamW(groups, lr=rate, fused=fused)

        monkeypatch.setattr("qat.models.base.adamw", optimiser)
        L.seed_everything(3)
        model = build("crdnn")
        monkeypatch.setattr(
            model,
            "on_before_zero_grad",
            lambda optimizer, model=model: clipped.append(largest_gradient(model)),
        )
        fit(
            model, tiny_data, precision="bf16-mixed", gradient_clip_val=1e-3,
            gradient_clip_algorithm=algorithm,
        )  # fmt: skip
        ends.append(model.state_dict())
    assert clipped and 0 < max(clipped) <= 1e-3 * (1 + 1e-5)
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-3, atol=1e-5)


def largest_gradient(model: torch.nn.Module) -> float:
    """Of one value."""
    return max((float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None), default=0.0)


def test_accumulated_gradients_are_those_of_the_larger_batch(kind: str) -> None:
    """Two batches of two utterances, one step: the weights of one batch of four."""
    texts = ["turn on", "light", "call home", "one two"]
    signal = noise(4, 1.0)
    lengths = torch.tensor([16_000, 15_000, 16_000, 14_000])

    def batch(rows: slice) -> Batch:
        return Batch(signal[rows], lengths[rows], texts[rows], [str(row) for row in range(4)][rows])

    start, ends = {}, []
    for batches, accumulate in (([batch(slice(0, 4))], 1), ([batch(slice(0, 2)), batch(slice(2, 4))], 2)):
        model = build(kind, Recipe(preset="deterministic", learn_scale=True), learning_rate=1e-3)
        model.fold_batch_norm()
        model.eval()
        set_observing_(model, True)
        with torch.no_grad():
            model(signal, lengths)
        set_observing_(model, False)
        calibrate_weights_(model)
        finish_calibration_(model)
        model.quantize()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        start = {key: value.clone() for key, value in model.state_dict().items()}
        trainer = L.Trainer(
            max_steps=1, accumulate_grad_batches=accumulate, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        ends.append(model.state_dict())
    moved = [key for key in start if not torch.equal(start[key], ends[0][key])]
    assert len(moved) > 10
    for key in moved:
        one, two = (end[key] - start[key] for end in ends)
        close = (
            one - two
        ).abs() <= 1e-3 * 1e-3 + 0.02 * one.abs()  # Adam's first step is the sign of a gradient
        assert float(close.float().mean()) > 0.97, key
