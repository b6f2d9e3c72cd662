"""Training steps: off is the plain model, accumulated batches are one."""

from __future__ import annotations

import lightning as L
import torch
from torch.utils.data import DataLoader

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.recipe import Recipe
from tests.callbacks.fits import fit
from tests.conftest import build, noise


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
