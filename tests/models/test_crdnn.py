"""The CRDNN: SpecAugment, features, shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qat.models.crdnn import CRDNNModule
from qat.system.errors import UserError
from tests.conftest import build, noise


def test_the_crdnns_spec_augment_masks_in_training_only() -> None:
    model = build("crdnn", time_masks=2, frequency_masks=2, frequency_mask_channels=3)
    assert build("crdnn").masks == []
    seen: list[Tensor] = []
    model.crdnn.CNN.block_0.conv_1.register_forward_pre_hook(
        lambda layer, inputs: seen.append(inputs[0].clone())
    )
    inputs, frames = torch.rand(16, 60, model.hparams.n_mels) + 1.0, torch.full((16,), 60)
    before = inputs.clone()
    torch.manual_seed(0)
    for _ in range(20):
        model.train().encode(inputs, frames)
    model.eval().encode(inputs, frames)
    assert torch.equal(inputs, before) and torch.equal(seen.pop(), before)
    silent = torch.stack(seen) == 0  # the inputs are above 1
    assert torch.equal(torch.stack(seen)[~silent], before.expand_as(silent)[~silent])
    spans, bands = silent.all(-1).sum(-1), silent.all(-2).sum(-1)  # frames and channels of each utterance
    assert 9 < spans.max() <= 2 * 9 and 2 < bands.max() <= 2 * 2 and spans.min() == bands.min() == 0
    with pytest.raises(UserError, match="time_mask_frames: 1, must be an integer of at least 2"):
        build("crdnn", time_mask_frames=1)
    with pytest.raises(UserError, match="frequency_masks: -1, must be an integer of at least 0"):
        build("crdnn", frequency_masks=-1)


def test_crdnn_lstm_may_run_in_one_direction() -> None:
    model = build("crdnn", rnn_bidirectional=False, rnn_layers=1)
    assert isinstance(model, CRDNNModule)
    assert model(noise(1, 0.5), torch.tensor([8_000]))[0].shape[-1] == len(model.vocabulary)
