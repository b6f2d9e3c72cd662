"""Fields of a Wav2Vec2's configuration: carried over, or refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Wav2Vec2Config

from qat.models.hugging_face_config import check_fields, checked_config, one_line, plain_config
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.system.errors import UserError
from tests.conftest import TINY_WAV2VEC2, noise


@pytest.mark.parametrize(
    "fields",
    [
        {"conv_bias": True},
        {"feat_extract_norm": "layer", "conv_bias": True},
        {"feat_extract_activation": "relu"},
        {"feat_extract_activation": "gelu_new", "do_stable_layer_norm": False},
        {"hidden_act": "relu", "layer_norm_eps": 1e-2},
        {"num_conv_pos_embeddings": 5, "num_conv_pos_embedding_groups": 2},
        {"adapter_attn_dim": 4},
        {"use_weighted_layer_sum": True, "output_hidden_size": 12},
        {"conv_dim": [8, 6, 8], "conv_kernel": [10, 4, 3], "conv_stride": [8, 6, 5]},
    ],
    ids=lambda fields: ",".join(fields),
)
@torch.no_grad()
def test_every_option_that_is_not_refused_computes_what_hugging_face_computes(fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Wav2Vec2Module(config={**TINY_WAV2VEC2["config"], **fields}).eval()
    for parameter in model.parameters():  # biases start from zero, and would hide what is left out
        parameter.add_(0.1 * torch.randn_like(parameter))
    signal, lengths = noise(2, 0.5), torch.tensor([8_000, 8_000])
    theirs = model.hf(model.features(signal, lengths)[0]).logits
    torch.testing.assert_close(model(signal, lengths)[0], theirs, atol=1e-4, rtol=1e-4)  # order of sums


def test_a_configuration_is_rebuilt_from_its_known_fields() -> None:
    config = Wav2Vec2Config(**TINY_WAV2VEC2["config"], feat_extract_dropout=0.5)
    fields = plain_config(config)
    assert "feat_extract_dropout" not in fields and "model_type" not in fields
    assert plain_config(checked_config(fields)) == fields


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"hiden_size": 3}, "model.config: 'hiden_size' is not a field"),
        ({"add_adapter": True}, "model.config: add_adapter: True, must be false"),
        ({"hidden_size": 0}, "model.config: hidden_size: 0, must be whole and at least 1"),
        ({"num_attention_heads": True}, "num_attention_heads: True, must be whole"),
        ({"conv_dim": [8]}, "model.config: must describe a Wav2Vec2 that can be built .*conv_stride"),
        ({"hidden_dropout": "much"}, "model.config: must describe .*hidden_dropout"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_one_line(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        checked_config(fields)
    assert "\n" not in str(error.value)


def test_another_type_is_refused_and_an_absent_one_is_not() -> None:
    check_fields("config.json", {})
    with pytest.raises(UserError, match="config.json: model_type: 'data2vec-audio', must be"):
        check_fields("config.json", {"model_type": "data2vec-audio"})


def test_an_error_of_a_library_is_one_line() -> None:
    assert one_line("here", lambda: 3) == 3
    with pytest.raises(UserError, match="here: must describe .* .ZeroDivision|integer"):
        one_line("here", lambda: 1 // 0)
