"""Hugging Face's Wav2Vec2: built from a configuration, or read from a folder or the hub."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar

from transformers import Wav2Vec2ForCTC

from qat.models.ctc import VOCABULARY
from qat.models.hugging_face_config import checked_config, one_line
from qat.models.hugging_face_folder import read_model, read_preprocessor, read_tokenizer
from qat.models.options import Options
from qat.system.errors import UserError


@dataclass(frozen=True)
class HuggingFaceOptions(Options):
    """What is built, and what it emits.

    Args:
        config: fields of `transformers.Wav2Vec2Config`; ignored when `pretrained` is given.
        pretrained: folder or hub name with config, weights and (optional) tokenizer files; LayerDrop is switched off.
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


Chosen = TypeVar("Chosen", bound=HuggingFaceOptions)


def build_model(options: Chosen) -> tuple[Wav2Vec2ForCTC, Chosen]:
    """The Hugging Face model, and the options with what its folder states and the vocabulary filled in.

    Args:
        options: of a model.

    Raises:
        UserError: see `read_model`, `read_preprocessor`, `read_tokenizer`, `checked_config` and `check_labels`, or an
            option contradicts the folder.
    """
    if options.pretrained is None:
        chosen = replace(options, vocabulary=list(options.vocabulary or VOCABULARY))
        return build_from_config(chosen), chosen
    model = read_model(options.pretrained)
    outputs = model.lm_head.out_features
    stated = read_preprocessor(options.pretrained)
    if options.vocabulary is None:
        stated.update(read_tokenizer(options.pretrained, outputs))
    chosen = with_stated(options, stated)
    check_labels(chosen, outputs)
    return model, chosen


def build_from_config(options: HuggingFaceOptions) -> Wav2Vec2ForCTC:
    """A model with random weights and an output for each label.

    Raises:
        UserError: see `checked_config` and `check_labels`, or the configuration asks for another number of outputs.
    """
    outputs = len(options.vocabulary or [])
    check_labels(options, outputs)
    config = {"vocab_size": outputs, **(options.config or {})}
    if config["vocab_size"] != outputs:
        raise UserError(
            f"model.config: vocab_size: {config['vocab_size']}, must be {outputs}, the number of labels; "
            "leave it out, or name as many with --model.vocabulary"
        )
    checked = checked_config(config)
    return one_line("model.config", lambda: Wav2Vec2ForCTC(checked))


def with_stated(options: Chosen, stated: dict[str, Any]) -> Chosen:
    """The options with what the files of `pretrained` state.

    Raises:
        UserError: an option that is not at its default says otherwise.
    """
    defaults = {item.name: item.default for item in fields(options) if item.default is not MISSING}
    for name, value in stated.items():
        given = getattr(options, name)
        if given not in (defaults[name], value):
            raise UserError(
                f"model.{name}: {given!r}, must be {value!r}, as {options.pretrained} says; leave it out"
            )
    return replace(options, **stated)


def check_labels(options: HuggingFaceOptions, outputs: int) -> None:
    """Refuse labels that are not exactly the head's outputs.

    Raises:
        UserError: more or fewer, two that are equal, or no blank among them.
    """
    labels = options.vocabulary or []
    if len(labels) != outputs:
        raise UserError(
            f"vocabulary: {len(labels)} labels, must be {outputs}, one for each output of the head"
        )
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"vocabulary: {twice!r} twice, must be labels that differ")
    if options.blank_token not in labels:
        raise UserError(
            f"blank_token: {options.blank_token!r}, must be one of the {outputs} labels of the vocabulary"
        )
