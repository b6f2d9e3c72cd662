"""Hugging Face's Wav2Vec2: built from a configuration, or read from a folder or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from qat.models.options import Options
from qat.system.errors import UserError


@dataclass(frozen=True)
class HuggingFaceOptions(Options):
    """What is built, and what it emits.

    Args:
        config: fields of `transformers.Wav2Vec2Config`; ignored when `pretrained` is given.
        pretrained: folder or hub name with config, weights and (optional) tokenizer files.
        vocabulary: the output labels in order; None takes the processor's, or the project's characters.
        blank_token: the CTC blank among them.
        word_delimiter: the label that stands for a space.
        do_normalize: give every utterance zero mean and unit variance.
        freeze_feature_encoder: train everything but the convolutional feature extractor.
    """

    config: dict[str, Any] | None = None
    pretrained: str | None = None
    vocabulary: list[str] | None = None
    blank_token: str = "<blank>"
    word_delimiter: str = " "
    do_normalize: bool = True
    freeze_feature_encoder: bool = False


def build_model(
    config: dict[str, Any] | None, pretrained: str | None, vocabulary: list[str]
) -> tuple[Wav2Vec2ForCTC, dict[str, Any]]:
    """The Hugging Face model, and the options that its processor states (none without one).

    Args:
        config: see `HuggingFaceOptions`.
        pretrained: see `HuggingFaceOptions`.
        vocabulary: labels of a model that is built from `config`.

    Raises:
        UserError: the folder or hub name cannot be read, or a configuration field is unknown.
    """
    if pretrained is None:
        return Wav2Vec2ForCTC(checked_config({**(config or {}), "vocab_size": len(vocabulary)})), {}
    try:
        model = Wav2Vec2ForCTC.from_pretrained(pretrained, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"pretrained: {pretrained!r} is neither a local folder nor a hub model ({reason})"
        ) from None
    model.config.layerdrop = 0.0
    try:
        return model, read_processor(pretrained)
    except (OSError, TypeError) as error:
        raise UserError(
            f"pretrained: {pretrained!r} holds no tokenizer files ({type(error).__name__})"
        ) from None


def read_processor(pretrained: str) -> dict[str, Any]:
    """Fields of `HuggingFaceOptions` (labels, blank, delimiter, normalisation) of a processor folder or hub name."""
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(pretrained)
    table = tokenizer.get_vocab()
    normalize = True
    if not Path(pretrained).is_dir() or (Path(pretrained) / "preprocessor_config.json").is_file():
        normalize = bool(Wav2Vec2FeatureExtractor.from_pretrained(pretrained).do_normalize)
    return {
        "vocabulary": [token for token, _ in sorted(table.items(), key=lambda item: item[1])],
        "blank_token": str(tokenizer.pad_token),
        "word_delimiter": str(tokenizer.word_delimiter_token),
        "do_normalize": normalize,
    }


def checked_config(fields: dict[str, Any]) -> Wav2Vec2Config:
    """A `Wav2Vec2Config` from known fields only.

    Raises:
        UserError: a field that `Wav2Vec2Config` does not have.
    """
    known = set(Wav2Vec2Config().to_dict()) | {"attn_implementation"}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise UserError(f"model.config: {unknown[0]!r} is not a field of transformers.Wav2Vec2Config")
    return Wav2Vec2Config(**{"attn_implementation": "sdpa", **fields})


def plain_config(config: Wav2Vec2Config) -> dict[str, Any]:
    """The configuration's differences from the defaults, as builtins that rebuild it."""
    fields = config.to_diff_dict()
    dropped = ("transformers_version", "model_type", "architectures", "torch_dtype", "dtype", "_name_or_path")
    return {key: value for key, value in fields.items() if key not in dropped}
