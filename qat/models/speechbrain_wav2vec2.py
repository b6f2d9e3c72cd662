"""SpeechBrain's Wav2Vec2 for CTC: Hugging Face's encoder, and a head of linear layers of SpeechBrain's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Model

from qat.layers.equalize import ScalePair
from qat.layers.masking import frame_mask, to_device_of
from qat.layers.ragged_lstm import pack, unpack
from qat.models.ctc import BLANK, VOCABULARY
from qat.models.hugging_face_config import checked_config, plain_config
from qat.models.options import Options, TrainingOptions
from qat.models.speechbrain_folder import read_folder
from qat.models.wav2vec2_encoder import Wav2Vec2Encoder
from qat.recipe import Recipe
from qat.system.errors import UserError

OUTPUT_EPS = 1e-5  # that PyTorch's layer_norm adds to a variance
JOINT_NORM = "the norm over time and width after it mixes its channels"


@dataclass(frozen=True)
class SpeechBrainHeadOptions(Options):
    """What is built, and what it emits; a folder brings all of it.

    Args:
        speechbrain: SpeechBrain's pretrained folder (or its name on the hub), which gives all sizes and weights.
        config: fields of `transformers.Wav2Vec2Config`; ignored where a folder is given.
        vocabulary: the output labels in order; None takes the folder's, or the project's characters.
        blank_token: the CTC blank among them.
        do_normalize: give every utterance zero mean and unit variance.
        output_norm: give the encoder's states of every utterance zero mean and unit variance over time and width.
        head_neurons: width of each linear layer before the output.
        head_batch_norm: BatchNorm after each of them.
        head_dropout: after each of them, in [0, 1].
        freeze_feature_encoder: train everything but the convolutional feature extractor.

    Raises:
        UserError: the head has no layers, or a share is outside its range.
    """

    speechbrain: str | None = None
    config: dict[str, Any] | None = None
    vocabulary: list[str] | None = None
    blank_token: str = BLANK
    do_normalize: bool = True
    output_norm: bool = True
    head_neurons: list[int] = field(default_factory=lambda: [1024, 1024])
    head_batch_norm: bool = False
    head_dropout: float = 0.0
    freeze_feature_encoder: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(("head_dropout",), 0, 1)
        if not self.head_neurons or min(self.head_neurons) < 1:
            raise UserError(f"head_neurons: {self.head_neurons}, must be at least one width of at least 1")


@dataclass(frozen=True)
class SpeechBrainWav2Vec2Options(TrainingOptions, SpeechBrainHeadOptions):
    """All options of a `SpeechBrainWav2Vec2Module`."""


class SpeechBrainWav2Vec2Module(Wav2Vec2Encoder):
    """A Wav2Vec2 as SpeechBrain fine-tunes it: read from a pretrained folder, or built from a configuration.

    Args:
        recipe: what is quantized and how; a `Recipe` or its `to_dict()`.
        init_from: float checkpoint whose weights the model starts from; None starts from random weights.
        options: fields of `SpeechBrainWav2Vec2Options`.

    Raises:
        UserError: see the option groups and `read_folder`.
    """

    groups = {
        "feature_extractor": ["wav2vec2.feature_extractor.*"],
        "transformer": ["wav2vec2.feature_projection.*", "wav2vec2.encoder.*"],
        "head": ["head.*", "ctc_lin"],
    }
    waveform_eps = 1e-5
    options: SpeechBrainWav2Vec2Options

    def __init__(
        self,
        recipe: Recipe | dict[str, Any] | None = None,
        init_from: str | None = None,
        **options: Any,
    ) -> None:
        chosen = SpeechBrainWav2Vec2Options(**options)
        folder = read_folder(chosen.speechbrain) if chosen.speechbrain else None
        if folder is not None:
            if folder.layout != "wav2vec2":
                raise UserError(
                    f"{folder.path}: an attention model, must be a Wav2Vec2; use qat.models.AttentionModule"
                )
            chosen = replace(chosen, **folder.options)
        vocabulary = list(chosen.vocabulary or VOCABULARY)
        config = checked_config(chosen.config or {})
        chosen = replace(chosen, vocabulary=vocabulary, config=plain_config(config))
        super().__init__(recipe, init_from, chosen)
        self.vocabulary = vocabulary
        parameters = self.hyper_parameters()
        parameters.pop("speechbrain")  # the other options and the weights hold all of it
        self.save_hyperparameters(parameters)
        self.wav2vec2 = Wav2Vec2Model(config)
        widths = [config.hidden_size, *chosen.head_neurons]
        self.head = nn.Sequential(
            *(block(chosen, before, after) for before, after in zip(widths, widths[1:], strict=False))
        )
        self.ctc_lin = nn.Linear(widths[-1], len(vocabulary))
        self.prepare_backbone_(chosen.freeze_feature_encoder)
        if folder is not None:
            folder.fill_(self)
        self.finish_build()

    @property
    def backbone(self) -> Any:
        """See `Wav2Vec2Encoder`."""
        return self.wav2vec2

    def symbol(self, label: int) -> str:
        """Text of one label: lower case, unless the labels tell the cases apart; special labels as SpeechBrain
        writes them."""
        if label == self.blank:
            return ""
        cased = len({text.lower() for text in self.vocabulary}) < len(self.vocabulary)
        return self.vocabulary[label] if cased else self.vocabulary[label].lower()

    def emit(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """See `Wav2Vec2Encoder`: the norm of the output, blocks of linear layers, labels."""
        if self.options.output_norm:
            hidden = joint_layer_norm(hidden, frames)
        if self.training and self.options.head_batch_norm:  # whose statistics may see no padding
            packed = pack(hidden, frames)
            return unpack(packed, self.ctc_lin(self.head(packed.data)), hidden.shape[1])
        return self.ctc_lin(self.head(hidden))

    def compiled_parts(self) -> Iterator[nn.Module]:
        """Those of the encoder, and the head where its frames are not packed."""
        yield from super().compiled_parts()
        if not self.options.head_batch_norm:
            yield self.head

    def batch_norm_pairs(self) -> Iterator[tuple[str, nn.Module, nn.Module]]:
        """Linear -> BatchNorm1d of each block of the head."""
        for name, layers in self.head.named_children():
            norm = getattr(layers, "norm", None)
            if isinstance(norm, nn.BatchNorm1d):
                yield f"head.{name}.norm", layers.get_submodule("linear"), norm

    def head_pairs(self) -> tuple[Sequence[str], str, Iterator[ScalePair]]:
        """See `Wav2Vec2Encoder`; the blocks of the head, through LeakyReLU."""
        return ("head.0.linear",), JOINT_NORM if self.options.output_norm else "", self.block_pairs()

    def block_pairs(self) -> Iterator[ScalePair]:
        """Linear or BatchNorm of each block -> the next linear layer."""
        names = [*(f"head.{index}.linear" for index in range(len(self.head))), "ctc_lin"]
        for name, after in zip(names, names[1:], strict=False):
            norm = name.replace("linear", "norm")
            folded = not isinstance(dict(self.named_modules()).get(norm), nn.BatchNorm1d)
            yield ScalePair(name if folded else norm, (after,))


class FrameBatchNorm(nn.BatchNorm1d):
    """BatchNorm of frames: `(N, C)`, or `(B, T, C)` in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised, of the shape of `x`."""
        return super().forward(x) if x.ndim == 2 else super().forward(x.transpose(1, 2)).transpose(1, 2)


def block(options: SpeechBrainHeadOptions, before: int, after: int) -> nn.Sequential:
    """Linear, BatchNorm where there is one, LeakyReLU, Dropout where there is one: `before` -> `after` values."""
    layers: dict[str, nn.Module] = {"linear": nn.Linear(before, after)}
    if options.head_batch_norm:
        layers["norm"] = FrameBatchNorm(after)
    layers["activation"] = nn.LeakyReLU()
    if options.head_dropout:
        layers["dropout"] = nn.Dropout(options.head_dropout)
    return nn.Sequential(OrderedDict(layers))


def joint_layer_norm(hidden: Tensor, frames: Tensor) -> Tensor:
    """Zero mean and unit variance of each utterance, over time and width together; padding becomes zero.

    In float64, so that the order in which PyTorch and ONNX Runtime add leaves no trace in the float32 result.

    Args:
        hidden: `(B, T, H)`.
        frames: valid frames `(B,)`.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        mask = frame_mask(frames, hidden).unsqueeze(-1)
        x = hidden.double().masked_fill(~mask, 0.0)
        count = to_device_of(hidden, frames).double()[:, None, None] * hidden.shape[-1]
        mean = x.sum((1, 2), keepdim=True) / count
        centred = (x - mean).masked_fill(~mask, 0.0)
        variance = centred.square().sum((1, 2), keepdim=True) / count
        return (centred / (variance + OUTPUT_EPS).sqrt()).float()
