"""The configuration of a Hugging Face Wav2Vec2: which fields are carried over, and which must say what is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from transformers import Wav2Vec2Config

from qat.models.options import MOST_LAYERS
from qat.system.errors import UserError

T = TypeVar("T")
MODEL_TYPE = "wav2vec2"
# Options of this and of kindred architectures that change what is computed, with the one value that is built.
# None: it must be absent or null.
BUILT: dict[str, Any] = {
    "add_adapter": False,
    "conv_pos_batch_norm": False,
    "feat_proj_layer_norm": True,
    **dict.fromkeys(
        (
            "adapter_act",
            "auto_map",
            "conformer_conv_dropout",
            "conv_depthwise_kernel_size",
            "conv_pos_kernel_size",
            "feature_layer_norm_eps",
            "feature_projection_input_dim",
            "left_max_position_embeddings",
            "max_bucket_distance",
            "max_position_embeddings",
            "max_source_positions",
            "norm_rel_ebd",
            "num_buckets",
            "pos_att_type",
            "position_buckets",
            "position_embeddings_type",
            "quantization_config",
            "relative_attention",
            "right_max_position_embeddings",
            "rotary_embedding_base",
            "share_att_key",
            "squeeze_factor",
            "use_intermediate_ffn_before_adapter",
        )
    ),
}
SIZES = (
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "hidden_size",
    "intermediate_size",
    "mask_feature_length",
    "mask_time_length",
    "num_attention_heads",
    "num_conv_pos_embedding_groups",
    "num_conv_pos_embeddings",
    "num_hidden_layers",
)


def known_fields() -> set[str]:
    """Names that a `Wav2Vec2Config` has."""
    return set(Wav2Vec2Config().to_dict())


def checked_config(fields: dict[str, Any]) -> Wav2Vec2Config:
    """A `Wav2Vec2Config` from known fields only.

    Raises:
        UserError: a field that `Wav2Vec2Config` does not have, or see `check_fields`.
    """
    unknown = sorted(set(fields) - known_fields() - {"attn_implementation"})
    if unknown:
        raise UserError(f"model.config: {unknown[0]!r} is not a field of transformers.Wav2Vec2Config")
    check_fields("model.config", fields)
    return one_line("model.config", lambda: Wav2Vec2Config(**{"attn_implementation": "sdpa", **fields}))


def check_fields(source: str, fields: dict[str, Any]) -> None:
    """Refuse what would be ignored, or could not be computed.

    Args:
        source: what the message names: a file, or a group of options.
        fields: of a `config.json`.

    Raises:
        UserError: another architecture, an option of one, or sizes that are none.
    """
    kind = fields.get("model_type", MODEL_TYPE)
    if kind != MODEL_TYPE:
        raise UserError(
            f"{source}: model_type: {kind!r}, must be of a model of the type {MODEL_TYPE}; its layers are not built"
        )
    for name, built in BUILT.items():
        value = fields.get(name)
        if value is not None and value != built:
            allowed = "absent" if built is None else str(built).lower()
            raise UserError(f"{source}: {name}: {value!r}, must be {allowed}; nothing else is built")
    for name in SIZES:
        value = fields.get(name)
        sizes = value if isinstance(value, list | tuple) else [value]
        if value is not None and not all(type(size) is int and size >= 1 for size in sizes):
            raise UserError(f"{source}: {name}: {value!r}, must be whole and at least 1")
    layers = fields.get("num_hidden_layers")
    if layers and layers > MOST_LAYERS:
        raise UserError(f"{source}: num_hidden_layers: {layers}, must be at most {MOST_LAYERS}")
    width, length = fields.get("hidden_size"), fields.get("mask_feature_length")
    if width and length and fields.get("mask_feature_prob") and length > width:
        raise UserError(f"{source}: mask_feature_length: {length}, must be at most hidden_size, {width}")


def plain_config(config: Wav2Vec2Config) -> dict[str, Any]:
    """The known fields that differ from the defaults, as builtins that rebuild the configuration."""
    fields = config.to_diff_dict()
    dropped = ("transformers_version", "model_type", "architectures", "torch_dtype", "dtype", "_name_or_path")
    known = known_fields()
    return {key: value for key, value in fields.items() if key in known and key not in dropped}


def one_line(source: str, work: Callable[[], T]) -> T:
    """The result of a foreign library, whose every error becomes the user's one line.

    Raises:
        UserError: `work` raised.
    """
    try:
        return work()
    except UserError:
        raise
    except Exception as error:  # transformers checks some values and divides by others
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2])[:240] or type(error).__name__
        raise UserError(f"{source}: must describe a Wav2Vec2 that can be built ({reason})") from None
