"""BatchNorm statistics measured anew."""

from __future__ import annotations

import torch

from datamodules.base import SpeechDataModule
from qat.methods.calibrate import calibrate_
from qat.methods.re_estimate import BATCH_NORM, frames_of, re_estimate_batch_norm_
from qat.recipe import Recipe
from tests.conftest import build


def test_re_estimated_statistics_are_those_of_the_frames_behind_each_norm(
    tiny_data: SpeechDataModule,
) -> None:
    model = build("crdnn", Recipe(preset="x", calibration_utterances=5, fold_batch_norm=False))
    calibrate_(model, tiny_data)
    norms = {name: norm for name, module in model.named_modules() if isinstance(norm := module, BATCH_NORM)}
    for norm in norms.values():
        norm.running_mean.fill_(7.0), norm.running_var.fill_(9.0)
    assert re_estimate_batch_norm_(model, tiny_data) == "re-estimated 2 BatchNorm on 5 training utterances"
    model.eval()
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in norms}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(
            lambda layer, inputs, name=name: seen[name].append(frames_of(inputs[0]))
        )
    with torch.no_grad():
        for batch in tiny_data.loader(tiny_data.calibration_utterances(5, 0)):
            model(batch.signal, batch.lengths)
    for name, norm in norms.items():
        frames = torch.cat(seen[name])
        torch.testing.assert_close(norm.running_mean, frames.mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(norm.running_var, frames.var(0), atol=1e-6, rtol=1e-4)
