"""When BatchNorm is folded."""

from __future__ import annotations

from pathlib import Path

import torch

from datamodules.base import SpeechDataModule
from qat.models.loading import load_module, save_module
from qat.recipe import Recipe
from tests.callbacks.fits import fit
from tests.conftest import build


def test_folding_after_calibration_keeps_the_ranges_of_the_unfolded_weights(
    tiny_data: SpeechDataModule, tmp_path: Path
) -> None:
    """The wrong order, for the record: scales are those of unfolded calibration, weights those of folding."""
    states = {}
    for order in (True, False, "after_calibration"):
        model = build("crdnn", Recipe(preset="x", calibration_utterances=4, fold_batch_norm=order))  # type: ignore[arg-type]
        for _, _, norm in model.batch_norm_pairs():
            norm.running_var.fill_(0.25)  # type: ignore[operator, union-attr]
        fit(model, tiny_data, max_steps=-1, max_epochs=0)
        states[order] = model.state_dict()
        assert len(model.folded) == (0 if order is False else 2)
        save_module(model, tmp_path / "model.ckpt")
        signal, lengths = 0.1 * torch.randn(1, 16_000), torch.tensor([16_000])
        with torch.no_grad():
            assert torch.equal(
                load_module(tmp_path / "model.ckpt")(signal, lengths)[0], model.eval()(signal, lengths)[0]
            )
    name = "crdnn.DNN.block_0.linear.w"
    late, before, never = states["after_calibration"], states[True], states[False]
    assert torch.equal(late[f"{name}.weight"], before[f"{name}.weight"])
    assert torch.equal(late[f"{name}.weight_quantizer.scale"], never[f"{name}.weight_quantizer.scale"])
    assert not torch.equal(late[f"{name}.weight_quantizer.scale"], before[f"{name}.weight_quantizer.scale"])
