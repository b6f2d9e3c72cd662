"""Pairs of layers of a Wav2Vec2."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qat.layers.equalize import input_range, scale_pair_
from qat.models.speechbrain_wav2vec2 import SpeechBrainWav2Vec2Module
from tests.conftest import TINY_WAV2VEC2, build
from tests.models.attention_models import batch_of
from tests.models.conftest import norms_of_noise_, scaled_by_powers_of_two

SHAPES: dict[str, tuple[dict[str, Any], int]] = {  # options, pairs that can be scaled: layers are two
    "pre_norm": ({}, 2 + 2 * 3),
    "post_norm": ({"do_stable_layer_norm": False}, 2 + 2 * 1),
    "layer_norm": ({"feat_extract_norm": "layer"}, 2 + 2 * 3),
    "relu": ({"hidden_act": "relu", "feat_extract_activation": "relu"}, 2 + 2 * 4 + 6),
    "dropped_layers": ({"do_stable_layer_norm": False, "layerdrop": 0.1}, 1 + 2 * 1),
}


@pytest.mark.parametrize("name", SHAPES)
def test_scaling_every_pair_of_a_wav2vec2_changes_no_bit_of_its_output(name: str) -> None:
    options, count = SHAPES[name]
    model = build("wav2vec2", config={**TINY_WAV2VEC2["config"], **options}).eval()
    norms_of_noise_(model)
    assert scaled_by_powers_of_two(model) == count


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("output_norm", [False, True])
def test_scaling_the_head_of_speechbrains_changes_no_bit(output_norm: bool, folded: bool) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"head_neurons": [6, 7], "head_batch_norm": True, "output_norm": output_norm}
    model = SpeechBrainWav2Vec2Module(config=TINY_WAV2VEC2["config"], **shape).eval()
    norms_of_noise_(model)
    if folded:
        model.fold_batch_norm()
    assert scaled_by_powers_of_two(model) == (7 if output_norm else 8) + 2


@pytest.mark.parametrize("stable", [True, False])
def test_pairs_that_are_skipped_would_change_the_output(stable: bool) -> None:
    """Each reason is one: GELU, and the residual that reads the norm of a post-norm encoder."""
    config = {**TINY_WAV2VEC2["config"], "do_stable_layer_norm": stable}
    batch = batch_of(1)
    skipped = [pair for pair in build("wav2vec2", config=config).scale_pairs() if pair.reason]
    words = " ".join(pair.reason for pair in skipped)
    assert "GELU" in words and ("residual" in words) is not stable
    for pair in [pair for pair in skipped if "feature_extractor" not in pair.producer]:
        model = build("wav2vec2", config=config).eval()
        norms_of_noise_(model)
        before = model.posteriors(batch)[0]
        scale_pair_(model, pair, torch.full((len(input_range(model.get_submodule(pair.consumers[0]))),), 4.0))
        assert (model.posteriors(batch)[0] - before).abs().max() > 1e-4 * before.abs().max(), pair.name
