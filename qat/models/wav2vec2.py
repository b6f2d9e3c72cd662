"""Hugging Face's Wav2Vec2 with a CTC head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from qat.layers.base import QuantLayer
from qat.layers.masking import frame_mask, valid_lengths
from qat.layers.weight_norm import remove_weight_norm_
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from qat.system.errors import UserError

GELU_FLOOR = -3.0  # |gelu(x)| <= 0.0041 below: a range that reaches further down wastes levels
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<blank>")


class Wav2Vec2Module(CTCModule):
    """`transformers.Wav2Vec2ForCTC` built from a configuration, or read from a local or hub folder.

    The forward path reuses the submodules of the Hugging Face model but masks padding everywhere, the first
    layer's GroupNorm included, so that an utterance reads the same alone and in a batch.

    Args:
        config: fields of `transformers.Wav2Vec2Config`; ignored when `pretrained` is given.
        pretrained: folder or hub name with config, weights and (optional) tokenizer files.
        vocabulary: the output labels in order; None takes the processor's, or the project's characters.
        blank_token: the CTC blank among them.
        word_delimiter: the label that stands for a space.
        do_normalize: give every utterance zero mean and unit variance.
        freeze_feature_encoder: train everything but the convolutional feature extractor.
    """

    groups = {
        "feature_extractor": ["hf.wav2vec2.feature_extractor.*"],
        "transformer": ["hf.wav2vec2.feature_projection.*", "hf.wav2vec2.encoder.*"],
        "head": ["hf.lm_head"],
    }

    def __init__(
        self,
        recipe: Recipe | dict[str, Any] | None = None,
        init_from: str | None = None,
        config: dict[str, Any] | None = None,
        pretrained: str | None = None,
        vocabulary: list[str] | None = None,
        blank_token: str = "<blank>",
        word_delimiter: str = " ",
        do_normalize: bool = True,
        freeze_feature_encoder: bool = False,
        learning_rate: float = 1e-3,
        quantizer_learning_rate: float = 1e-4,
        weight_decay: float = 1e-2,
        warmup_steps: int = 100,
        final_lr_ratio: float = 0.01,
        teacher: str | None = None,
        distillation_weight: float = 0.5,
        splice_share: float = 0.0,
    ) -> None:
        super().__init__(
            recipe,
            init_from,
            learning_rate,
            quantizer_learning_rate,
            weight_decay,
            warmup_steps,
            final_lr_ratio,
            teacher,
            distillation_weight,
            splice_share,
        )
        self.hf, processor = build_model(config, pretrained, vocabulary or self.vocabulary)
        if vocabulary is None and processor is not None:
            vocabulary, blank_token = processor["vocabulary"], processor["blank_token"]
            word_delimiter, do_normalize = processor["word_delimiter"], processor["do_normalize"]
        self.vocabulary = list(vocabulary or self.vocabulary)
        self.blank_token, self.word_delimiter, self.do_normalize = blank_token, word_delimiter, do_normalize
        self.save_hyperparameters(
            {
                **self.base_arguments(),
                "config": plain_config(self.hf.config),
                "vocabulary": self.vocabulary,
                "blank_token": blank_token,
                "word_delimiter": word_delimiter,
                "do_normalize": do_normalize,
                "freeze_feature_encoder": freeze_feature_encoder,
            }
        )
        remove_weight_norm_(self.hf)
        if hasattr(self.hf.wav2vec2, "masked_spec_embed"):  # without masking it would stay without gradient
            self.hf.wav2vec2.masked_spec_embed.requires_grad_(self.masks_time)
        if freeze_feature_encoder:
            self.hf.freeze_feature_encoder()
        self.finish_build()
        for conv in self.convolutions_before_gelu():
            if isinstance(conv, QuantLayer):
                conv.ignore_output_below_(GELU_FLOOR)
        for layer in self.hf.wav2vec2.feature_extractor.modules():
            if isinstance(layer, QuantLayer):
                layer.relative_error = True  # linear in the waveform's loudness up to a LayerNorm

    def convolutions_before_gelu(self) -> Iterator[nn.Module]:
        """Convolutions whose output goes through GELU and nowhere else."""
        if self.hf.config.feat_extract_activation != "gelu":
            return
        for layer in cast(nn.ModuleList, self.hf.wav2vec2.feature_extractor.conv_layers):
            if getattr(layer, "layer_norm", None) is None:
                yield cast(nn.Module, layer.conv)
        yield self.hf.wav2vec2.encoder.pos_conv_embed.conv

    @property
    def masks_time(self) -> bool:
        """Whether training masks spans of frames (SpecAugment as the Hugging Face configuration asks for it)."""
        config = self.hf.config
        return bool(config.apply_spec_augment and config.mask_time_prob > 0)

    @property
    def blank(self) -> int:
        """Index of the CTC blank."""
        return self.vocabulary.index(self.blank_token)

    def symbol(self, label: int) -> str:
        """Text of one label: the word delimiter is a space, special tokens are silent, letters lower case."""
        token = self.vocabulary[label]
        if token == self.word_delimiter:
            return " "
        return "" if token in SPECIAL_TOKENS else token.lower()

    def features(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform `(B, S)`, normalised per utterance over valid samples; padding is zero.

        In float64, so that the order in which PyTorch and ONNX Runtime add leaves no trace in the float32 result.
        """
        mask = frame_mask(lengths, signal.shape[1])
        signal = signal.float().masked_fill(~mask, 0.0)
        if not self.do_normalize:
            return signal, lengths
        signal, count = signal.double(), lengths.double().unsqueeze(1)
        mean = signal.sum(1, keepdim=True) / count
        centred = (signal - mean).masked_fill(~mask, 0.0)
        variance = centred.square().sum(1, keepdim=True) / count
        return (centred / (variance + 1e-7).sqrt()).float(), lengths

    def encode(self, inputs: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform `(B, S)`, valid samples `(B,)` -> (logits `(B, T, V)`, valid frames `(B,)`)."""
        with valid_lengths(frames, inputs.shape[1]):
            hidden, frames = self.extract(inputs, frames)
            hidden = self.hf.wav2vec2.feature_projection(hidden.transpose(1, 2))[0]
            hidden = self.transform(hidden, frame_mask(frames, hidden.shape[1]))
            return self.hf.lm_head(self.hf.dropout(hidden)), frames

    def extract(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolutional feature extractor: `(B, S)` -> (features `(B, C, T)`, valid frames `(B,)`)."""
        hidden = signal.unsqueeze(1)
        layers: Any = self.hf.wav2vec2.feature_extractor.conv_layers
        for layer in layers:
            kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
            lengths = (torch.div(lengths - kernel, stride, rounding_mode="floor") + 1).clamp(min=1)
            if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
                hidden = layer.conv(hidden)
                hidden = layer.activation(masked_group_norm(hidden, lengths, layer.layer_norm))
            else:
                hidden = layer(hidden)
        return hidden, lengths

    def transform(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Transformer encoder on `(B, T, H)`; `mask (B, T)` is True on valid frames."""
        encoder = self.hf.wav2vec2.encoder
        config = self.hf.config
        if self.training and config.apply_spec_augment and hidden.shape[1] >= config.mask_time_length:
            hidden = self.hf.wav2vec2._mask_hidden_states(hidden.clone(), attention_mask=cast(Any, mask))
        hidden = hidden.masked_fill(~mask.unsqueeze(-1), 0.0)
        hidden = hidden + encoder.pos_conv_embed(hidden)
        stable = config.do_stable_layer_norm
        hidden = encoder.dropout(hidden if stable else encoder.layer_norm(hidden))
        bias = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, torch.finfo(hidden.dtype).min)
        bias = bias[:, None, None, :]
        for layer in encoder.layers:
            if self.training and self.hf.config.layerdrop > 0 and torch.rand([]) < self.hf.config.layerdrop:
                continue
            hidden = layer(hidden, attention_mask=bias)
        return encoder.layer_norm(hidden) if stable else hidden


ROWS = 4  # that share the frames of a sum of squares


def masked_group_norm(x: Tensor, frames: Tensor, norm: nn.GroupNorm) -> Tensor:
    """GroupNorm with one channel a group whose statistics see valid frames only.

    Equals `norm(x)` where nothing is padded.

    Args:
        x: `(B, C, T)`.
        frames: valid frames `(B,)`.
        norm: affine, `num_groups == num_channels`.
    """
    # Sums over time as products with the mask: ONNX Runtime's ReduceSum took a fifth of a whole wav2vec2-base. A
    # product of one row adds frame after frame, one of several rows by blocks, which loses a tenth as much of a square.
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        by_time = x.transpose(1, 2)
        valid = frame_mask(frames, x.shape[-1]).unsqueeze(1)
        row = torch.arange(ROWS, device=x.device).unsqueeze(1)
        turns = torch.arange(x.shape[-1], device=x.device) % ROWS == row
        count = frames.float()[:, None, None]
        mean = (valid.float() @ by_time).transpose(1, 2) / count
        square = ((valid & turns).float() @ by_time.square()).sum(1).unsqueeze(2) / count
        variance = (square - mean.square()).clamp(min=0.0)
    scale = norm.weight[:, None] * torch.rsqrt(variance + norm.eps)
    return x * scale + (norm.bias[:, None] - mean * scale)


def build_model(
    config: dict[str, Any] | None, pretrained: str | None, vocabulary: list[str]
) -> tuple[Wav2Vec2ForCTC, dict[str, Any] | None]:
    """The Hugging Face model, and what its processor says of labels and normalisation (None without one).

    Raises:
        UserError: the folder or hub name cannot be read, or a configuration field is unknown.
    """
    if pretrained is None:
        return Wav2Vec2ForCTC(checked_config({**(config or {}), "vocab_size": len(vocabulary)})), None
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
    """Labels, blank, delimiter and normalisation of a processor folder or hub name."""
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
