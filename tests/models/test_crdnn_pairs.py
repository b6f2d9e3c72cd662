"""Pairs of layers of a CRDNN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qat.layers.equalize import scale_pair_, unfit_reason
from qat.models.crdnn_pairs import pooled_places
from qat.models.ctc import CTCModule
from tests.conftest import build
from tests.models.attention_models import attention_model, batch_of
from tests.models.conftest import norms_of_noise_, scaled_by_powers_of_two


@pytest.mark.parametrize("folded", [False, True])
def test_scaling_every_pair_of_a_crdnn_changes_no_bit_of_its_output(folded: bool) -> None:
    model = build("crdnn", n_mels=11).eval()  # of whose 11, then 5 frequencies pooling leaves one out
    norms_of_noise_(model)
    if folded:
        model.fold_batch_norm()
    assert scaled_by_powers_of_two(model) == 6


def test_scaling_an_attention_models_encoder_changes_no_bit_of_frames_and_tokens(tmp_path: Path) -> None:
    model = attention_model(tmp_path)
    norms_of_noise_(model)
    pairs = [pair for pair in model.scale_pairs() if not unfit_reason(model, pair)]
    assert pairs[-1].consumers == ("ctc_lin.w", "decoder.attn.mlp_enc", "decoder.attn.mlp_out")
    assert scaled_by_powers_of_two(model) == len(pairs) == 6


def test_what_a_guide_reads_is_not_scaled(tmp_path: Path) -> None:
    model: CTCModule = attention_model(tmp_path)
    vars(model)["guide"] = object()
    *_, last = model.scale_pairs()
    assert "guide reads it" in unfit_reason(model, last)


def test_an_lstm_has_no_factor_to_give() -> None:
    model = build("crdnn")
    reasons = {pair.producer: unfit_reason(model, pair) for pair in model.scale_pairs()}
    assert "tanh" in reasons["crdnn.RNN.rnn"]
    assert sum(not reason for reason in reasons.values()) == len(reasons) - 1


def test_every_value_has_the_place_that_pooling_gives_it() -> None:
    frequencies, channels, pooling = 7, 3, 2
    x = torch.arange(frequencies * channels).view(frequencies, channels).float()
    pooled = torch.nn.functional.max_pool1d(x.t(), pooling).t().flatten()
    places = pooled_places(frequencies, frequencies // pooling, channels, pooling)
    found = torch.full_like(pooled, -1.0).scatter_reduce(
        0, places[places >= 0], x.flatten()[places >= 0], "amax"
    )
    assert torch.equal(found, pooled)
    assert int((places < 0).sum()) == channels


def test_a_model_scaled_by_hand_differs_where_only_one_side_is_scaled() -> None:
    """The check of these tests bites."""
    model, batch = build("crdnn").eval(), batch_of(1)
    before = model.posteriors(batch)[0]
    pair = next(iter(model.scale_pairs()))
    model.get_submodule(pair.producer).get_parameter("weight").data.mul_(2)
    assert not torch.equal(model.posteriors(batch)[0], before)
    scale_pair_(model, pair, torch.full((4,), 2.0))
    assert not torch.equal(model.posteriors(batch)[0], before)
