"""The configuration of a Wav2Vec2 from the shapes of its parameters, or from a file beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from qat.layers.weight_norm import strip_weight_norm
from qat.models.speechbrain_config import config_of, normalizes
from qat.system.errors import UserError

LARGE: dict[str, Any] = {  # facebook/wav2vec2-large-960h-lv60-self
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
BASE: dict[str, Any] = {"num_hidden_layers": 3}


def shapes_of(fields: dict[str, Any]) -> dict[str, Tensor]:
    """Parameters without memory."""
    with torch.device("meta"):
        return strip_weight_norm(Wav2Vec2Model(Wav2Vec2Config(**fields)).state_dict())


@pytest.mark.parametrize("fields", [LARGE, BASE], ids=["large", "base"])
def test_shapes_of_published_models_say_their_configuration(tmp_path: Path, fields: dict[str, Any]) -> None:
    found = Wav2Vec2Config(**config_of(tmp_path, shapes_of(fields)))
    expected = Wav2Vec2Config(**{**fields, "layerdrop": 0.0})
    assert found.to_dict() == expected.to_dict()


def test_no_mask_embedding_means_no_masks(tmp_path: Path) -> None:
    state = shapes_of(BASE)
    del state["masked_spec_embed"]
    config = config_of(tmp_path, state)
    assert (config["mask_time_prob"], config["mask_feature_prob"]) == (0.0, 0.0)


def test_a_file_beside_the_parameters_goes_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "wav2vec2", "num_attention_heads": 6, "hidden_size": 48})
    )
    config = config_of(tmp_path, {})
    assert (config["num_attention_heads"], config["hidden_size"]) == (6, 48)
    assert normalizes(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert not normalizes(tmp_path)


def test_what_shapes_cannot_say_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="a Wav2Vec2 96 wide, must be 768, .*; for others put the config.json"
    ):
        config_of(tmp_path, shapes_of({"hidden_size": 96, "num_hidden_layers": 1}))
    with pytest.raises(UserError, match="model.feature_extractor.conv_layers.0.conv.weight: must be there"):
        config_of(tmp_path, {})
    for text, problem in (("{", "must be a JSON file"), ('{"model_type": "hubert"}', "of the type wav2vec2")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=problem):
            config_of(tmp_path, {})
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": 1}')
    with pytest.raises(UserError, match="do_normalize: 1, must be true or false"):
        normalizes(tmp_path)


@pytest.mark.parametrize("place", [".", ".."], ids=["inside", "beside"])
@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_another_sampling_rate_in_or_beside_the_folder_is_one_line(
    tmp_path: Path, name: str, place: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for rate in (16_000, 8_000):
        fields: dict[str, Any] = {"sampling_rate": rate, "do_normalize": False}
        nested = {"feature_extractor": fields} if name.startswith("processor") else fields
        (folder / place / name).write_text(json.dumps(nested))
        if rate == 16_000:
            assert normalizes(folder) == (place == ".."), "beside the folder lies another model's"
    with pytest.raises(
        UserError, match=rf"{name}: sampling_rate: 8000, must be 16000; nothing else is built"
    ) as caught:
        normalizes(folder)
    assert "\n" not in str(caught.value)
