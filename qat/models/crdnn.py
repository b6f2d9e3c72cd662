"""SpeechBrain's CRDNN encoder with a CTC head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.CRDNN import CRDNN
from speechbrain.nnet.CNN import Conv2d
from speechbrain.nnet.RNN import LSTM
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from qat.layers.masking import mirrored, to_device_of, valid_lengths
from qat.layers.ragged_lstm import pack, packed_lstm, unpack
from qat.models.filterbank import FilterbankModule, log_mel_of, normalise_features
from qat.models.options import MOST_LAYERS, Options, TrainingOptions
from qat.recipe import Recipe
from qat.system.errors import UserError


@dataclass(frozen=True)
class CRDNNShape(Options):
    """Size of SpeechBrain's CRDNN lobe.

    Args:
        n_mels: filterbank channels `F`.
        cnn_channels: output channels of each CNN block (two convolutions each).
        cnn_pooling: frequency pooling after each CNN block.
        time_pooling_size: frames merged into one before the LSTM (10 ms each).
        rnn_layers: stacked LSTM layers.
        rnn_neurons: cells per direction.
        rnn_bidirectional: run the LSTM in both directions.
        dnn_blocks: Linear + BatchNorm blocks after the LSTM.
        dnn_neurons: width of these blocks.
        dropout: of CNN, LSTM and DNN alike, in [0, 1].

    Raises:
        UserError: a size below 1, a share outside its range, or pooling that leaves no channel of the filterbank.
    """

    n_mels: int = 40
    cnn_channels: list[int] = field(default_factory=lambda: [24, 32])
    cnn_pooling: list[int] = field(default_factory=lambda: [2, 2])
    time_pooling_size: int = 3
    rnn_layers: int = 2
    rnn_neurons: int = 160
    rnn_bidirectional: bool = True
    dnn_blocks: int = 2
    dnn_neurons: int = 160
    dropout: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(("n_mels", "time_pooling_size", "rnn_neurons", "dnn_neurons"), 1, kind="an integer ")
        self.check(("rnn_layers", "dnn_blocks"), 1, MOST_LAYERS, kind="an integer ")
        self.check(("dropout",), 0, 1)
        self.check_each(("cnn_channels", "cnn_pooling"), 1)
        if len(self.cnn_pooling) < len(self.cnn_channels):
            raise UserError(
                f"cnn_pooling: {self.cnn_pooling}, must have one entry for each of cnn_channels {self.cnn_channels}"
            )
        if prod(self.cnn_pooling[: len(self.cnn_channels)]) > self.n_mels:
            raise UserError(
                f"cnn_pooling: {self.cnn_pooling}, must have a product of at most n_mels ({self.n_mels})"
            )

    def build(self) -> CRDNN:
        """The lobe, with random weights."""
        return CRDNN(
            input_size=self.n_mels,
            cnn_blocks=len(self.cnn_channels),
            cnn_channels=list(self.cnn_channels),
            cnn_kernelsize=(3, 3),
            inter_layer_pooling_size=list(self.cnn_pooling),
            time_pooling=True,
            time_pooling_size=self.time_pooling_size,
            rnn_class=LSTM,
            rnn_layers=self.rnn_layers,
            rnn_neurons=self.rnn_neurons,
            rnn_bidirectional=self.rnn_bidirectional,
            dnn_blocks=self.dnn_blocks,
            dnn_neurons=self.dnn_neurons,
            dropout=self.dropout,
        )


@dataclass(frozen=True)
class SpecAugmentOptions(Options):
    """Masking of filterbank features in training.

    Args:
        time_masks: SpecAugment (Park et al. 2019, arXiv 1904.08779): at most this many spans of frames of a training
            utterance are silenced; 0 switches it off.
        time_mask_frames: a span is shorter than this (10 ms a frame).
        frequency_masks: at most this many bands of filterbank channels likewise.
        frequency_mask_channels: a band is narrower than this.

    Raises:
        UserError: a count below 0 or a width below 2.
    """

    time_masks: int = 0
    time_mask_frames: int = 10
    frequency_masks: int = 0
    frequency_mask_channels: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(("time_masks", "frequency_masks"), 0, kind="an integer ")
        self.check(("time_mask_frames", "frequency_mask_channels"), 2, kind="an integer ")

    def build_masks(self) -> list[SpectrogramDrop]:
        """Masks of features `(B, T, F)`: of spans of frames, then of bands of channels."""
        sizes = (
            (1, self.time_masks, self.time_mask_frames),
            (2, self.frequency_masks, self.frequency_mask_channels),
        )
        # 1 to `width - 1` positions along `dim` become zero, which is the mean there
        return [
            SpectrogramDrop(1, width, 0, count, replace="zeros", dim=dim)
            for dim, count, width in sizes
            if count
        ]


@dataclass(frozen=True)
class CRDNNOptions(TrainingOptions, SpecAugmentOptions, CRDNNShape):
    """All options of a `CRDNNModule`."""


class CRDNNModule(FilterbankModule):
    """CNN blocks, bidirectional LSTMs and DNN blocks on log-mel filterbanks (SpeechBrain's CRDNN lobe).

    Args:
        recipe: what is quantized and how; a `Recipe` or its `to_dict()`.
        init_from: float checkpoint whose weights the model starts from; None starts from random weights.
        options: fields of `CRDNNOptions`.

    Raises:
        UserError: see the option groups.
    """

    groups = {"cnn": ["crdnn.CNN.*"], "rnn": ["crdnn.RNN.*"], "dnn": ["crdnn.DNN.*", "head"]}
    lobe, hidden_readers = "crdnn", ("head",)

    def __init__(
        self,
        recipe: Recipe | dict[str, Any] | None = None,
        init_from: str | None = None,
        **options: Any,
    ) -> None:
        chosen = CRDNNOptions(**options)
        super().__init__(recipe, init_from, chosen)
        self.save_hyperparameters(self.hyper_parameters())
        self.time_pooling_size = chosen.time_pooling_size
        self.fbank = Fbank(sample_rate=16_000, n_mels=chosen.n_mels)
        self.crdnn = chosen.build()
        self.masks = chosen.build_masks()
        self.head = nn.Linear(chosen.dnn_neurons, len(self.vocabulary))
        self.finish_build()

    def features(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel filterbanks in dB `(B, T, F)`, normalised per utterance and channel over valid frames."""
        log_mel, frames = log_mel_of(self.fbank, signal, lengths)
        return normalise_features(log_mel, frames)

    def encode(self, inputs: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(B, T, F)` -> (logits `(B, T', V)`, frames `(B,)`), `T' = T // time_pooling_size`."""
        if self.training:
            inputs = masked(self.masks, inputs)
        hidden = hidden_of(self.crdnn, inputs, frames, self.time_pooling_size)
        return hidden.unpack(self.head(hidden.data)), hidden.frames

    def compiled_parts(self) -> Iterator[nn.Module]:
        """The DNN blocks; for the CNN see `qat.models.compiling`."""
        yield from self.crdnn["DNN"].children() if "DNN" in self.crdnn else ()


@dataclass(frozen=True)
class Hidden:
    """What a CRDNN makes of a batch, without its padding: BatchNorm, observers and heads see valid frames only.

    Attributes:
        data: `(N, D)`, packed as `packed`; `(B, T, D)` where an exported layer takes padded input.
        packed: how; None where padded.
        frames: valid frames `(B,)`.
        total: T.
    """

    data: Tensor
    packed: PackedSequence | None
    frames: Tensor
    total: int

    def unpack(self, data: Tensor) -> Tensor:
        """What was computed of `data`, as `(B, T, ...)` with zeros as padding."""
        return data if self.packed is None else unpack(self.packed, data, self.total)


def hidden_of(crdnn: CRDNN, inputs: Tensor, frames: Tensor, time_pooling_size: int) -> Hidden:
    """A CRDNN lobe on features `(B, T, F)`, valid frames `(B,)`; `T // time_pooling_size` frames come out."""
    with valid_lengths(frames, inputs.shape[1]):
        x = crdnn.time_pooling(convolved(crdnn.CNN, inputs, frames))
    frames = (frames // time_pooling_size).clamp(min=1)
    x = x.flatten(2)
    rnn = crdnn.RNN.rnn
    if not isinstance(rnn, nn.LSTM):  # an exported layer takes padded input and its frames
        return Hidden(crdnn.DNN(rnn(x, frames)), None, frames, x.shape[1])
    packed = packed_lstm(rnn, pack(x, frames))
    return Hidden(crdnn.DNN(packed.data), packed, frames, x.shape[1])


def convolved(blocks: Any, x: Tensor, frames: Tensor) -> Tensor:
    """The CNN blocks on `(B, T, F)` -> `(B, T, F', C)`; each convolution mirrors each utterance at its own end."""
    for block in blocks.values():
        for layer in block.values():
            if isinstance(layer, Conv2d):
                x = mirrored(x, frames, layer.dilation[-1] * (layer.kernel_size[-1] // 2))
            x = layer(x)
    return x


def masked(masks: Sequence[SpectrogramDrop], features: Tensor) -> Tensor:
    """Features `(B, T, F)` with SpecAugment's spans and bands set to zero."""
    for mask in masks:
        features = drop(mask, features)
    return features


def drop(mask: SpectrogramDrop, features: Tensor) -> Tensor:
    """`mask(features)`, `(B, T, F)`, drawn on the CPU: on a GPU a `SpectrogramDrop` would read its draws back."""
    shape = [*features.shape]
    shape[3 - mask.dim] = 1  # draws depend on the masked axis only
    kept = mask(torch.ones(shape, device="cpu"))
    return features.masked_fill(to_device_of(features, kept == 0), 0.0)
