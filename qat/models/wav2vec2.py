"""Hugging Face's Wav2Vec2 with a CTC head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from qat.layers.equalize import ScalePair
from qat.models.hugging_face import HuggingFaceOptions, build_model
from qat.models.hugging_face_config import plain_config
from qat.models.options import TrainingOptions
from qat.models.wav2vec2_encoder import Wav2Vec2Encoder
from qat.recipe import Recipe

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<blank>")


@dataclass(frozen=True)
class Wav2Vec2Options(TrainingOptions, HuggingFaceOptions):
    """All options of a `Wav2Vec2Module`."""


class Wav2Vec2Module(Wav2Vec2Encoder):
    """`transformers.Wav2Vec2ForCTC` built from a configuration, or read from a local or hub folder.

    Args:
        recipe: what is quantized and how; a `Recipe` or its `to_dict()`.
        init_from: float checkpoint whose weights the model starts from; None starts from random weights.
        options: fields of `Wav2Vec2Options`.

    Raises:
        UserError: see the option groups and `build_model`.
    """

    groups = {
        "feature_extractor": ["hf.wav2vec2.feature_extractor.*"],
        "transformer": ["hf.wav2vec2.feature_projection.*", "hf.wav2vec2.encoder.*"],
        "head": ["hf.lm_head"],
    }
    options: Wav2Vec2Options

    def __init__(
        self,
        recipe: Recipe | dict[str, Any] | None = None,
        init_from: str | None = None,
        **options: Any,
    ) -> None:
        hf, chosen = build_model(Wav2Vec2Options(**options))
        super().__init__(recipe, init_from, replace(chosen, config=plain_config(hf.config)))
        self.hf, self.vocabulary = hf, list(chosen.vocabulary or [])
        parameters = self.hyper_parameters()
        parameters.pop("pretrained")  # `config` and the weights hold all of it
        self.save_hyperparameters(parameters)
        self.prepare_backbone_(chosen.freeze_feature_encoder)
        self.finish_build()

    def symbol(self, label: int) -> str:
        """Text of one label: the word delimiter is a space, special tokens are silent, letters lower case."""
        token = self.vocabulary[label]
        if token == self.options.word_delimiter:
            return " "
        return "" if token in SPECIAL_TOKENS else token.lower()

    @property
    def backbone(self) -> Any:
        """See `Wav2Vec2Encoder`."""
        return self.hf.wav2vec2

    def emit(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """See `Wav2Vec2Encoder`: one linear layer."""
        return self.hf.lm_head(self.hf.dropout(hidden))

    def head_pairs(self) -> tuple[Sequence[str], str, Iterator[ScalePair]]:
        """See `Wav2Vec2Encoder`."""
        return ("hf.lm_head",), "", iter(())
