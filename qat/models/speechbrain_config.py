"""The configuration of a Wav2Vec2 whose folder brings parameters alone: from their shapes, nothing is fetched.

SpeechBrain downloads the model that `wav2vec2_hub` names for its configuration, then replaces all of its weights. The
shapes say nearly everything; what they cannot say follows from the few architectures there are, and a `config.json`
(and `preprocessor_config.json` or `processor_config.json`) that is put into the folder says all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Wav2Vec2Config

from qat.models.hugging_face_config import check_fields, plain_config
from qat.models.hugging_face_folder import preprocessor_of
from qat.system.errors import UserError

CONFIG_FILE = "config.json"
HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}  # by width: of the base, large and XLS-R models
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # of all published models


def config_of(folder: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    """Fields of a `Wav2Vec2Config`.

    Args:
        folder: where a `config.json` may lie.
        state: parameters of a `Wav2Vec2Model`, without weight_norm.

    Raises:
        UserError: neither a file nor the shapes say it.
    """
    path = folder / CONFIG_FILE
    fields = read_json(path) if path.is_file() else fields_of(folder, state)
    if "masked_spec_embed" not in state:  # Hugging Face builds one where it may mask
        fields.update(mask_time_prob=0.0, mask_feature_prob=0.0)
    fields.update(layerdrop=0.0)
    check_fields(str(path), fields)
    try:
        config = Wav2Vec2Config(**{key: value for key, value in fields.items() if key != "model_type"})
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: must be a configuration of Wav2Vec2 ({' '.join(str(error).split())})"
        ) from None
    return {**plain_config(config), "hidden_size": config.hidden_size}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of Hugging Face.

    Raises:
        UserError: it is none, or of another model.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: must be a JSON file, as Hugging Face writes it") from None
    if not isinstance(fields, dict) or fields.get("model_type", "wav2vec2") != "wav2vec2":
        raise UserError(f"{path}: must be of a model of the type wav2vec2")
    return fields


def normalizes(folder: Path) -> bool:
    """Whether the waveform is normalised: as a file in the folder says, or yes, as of all published models.

    Raises:
        UserError: such a file, in the folder or beside it, asks for another sampling rate or other features.
    """
    preprocessor_of(str(folder.resolve().parent))
    fields = preprocessor_of(str(folder)) or {}
    return bool(fields.get("do_normalize", True))


def fields_of(folder: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    """Fields that shapes say."""
    convolutions = [
        shape(folder, state, f"feature_extractor.conv_layers.{index}.conv.weight", 3) for index in range(7)
    ]
    width = shape(folder, state, "feature_projection.projection.weight", 2)[0]
    position = shape(folder, state, "encoder.pos_conv_embed.conv.weight", 3)
    kernels = tuple(item[2] for item in convolutions)
    if kernels != KERNELS or width not in HEADS or width % position[1]:
        raise UserError(
            f"{folder}: a Wav2Vec2 {width} wide, must be {', '.join(map(str, HEADS))} with kernels "
            f"{', '.join(map(str, KERNELS))}; for others put the {CONFIG_FILE} of the Hugging Face model into it"
        )
    of_layers = "feature_extractor.conv_layers.1.layer_norm.weight" in state
    numbers = [key.split(".")[2] for key in state if key.startswith("encoder.layers.")]
    return {
        "conv_dim": [item[0] for item in convolutions],
        "conv_kernel": list(KERNELS),
        "conv_stride": list(STRIDES),
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in state,
        "feat_extract_norm": "layer" if of_layers else "group",
        "do_stable_layer_norm": of_layers,  # the two go together in all published models
        "hidden_size": width,
        "num_attention_heads": HEADS[width],
        "num_hidden_layers": len(set(numbers)),
        "intermediate_size": shape(
            folder, state, "encoder.layers.0.feed_forward.intermediate_dense.weight", 2
        )[0],
        "num_conv_pos_embeddings": position[2],
        "num_conv_pos_embedding_groups": width // position[1],
    }


def shape(folder: Path, state: dict[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    """Shape of a parameter, which must be there."""
    if key not in state or state[key].ndim != axes or not state[key].numel():
        raise UserError(f"{folder}: model.{key}: must be there, with {axes} axes")
    return tuple(state[key].shape)
