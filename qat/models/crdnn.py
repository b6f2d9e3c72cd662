"""SpeechBrain's CRDNN encoder with a CTC head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.CRDNN import CRDNN
from speechbrain.nnet.normalization import BatchNorm1d
from speechbrain.nnet.RNN import LSTM
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from qat.layers.masking import frame_mask, valid_lengths
from qat.layers.ragged_lstm import packed_lstm
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from qat.system.errors import UserError

HOP_LENGTH = 160  # samples: 10 ms at 16 kHz


class CRDNNModule(CTCModule):
    """CNN blocks, bidirectional LSTMs and DNN blocks on log-mel filterbanks (SpeechBrain's CRDNN lobe).

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
        dropout: of CNN, LSTM and DNN alike.
        time_masks: SpecAugment (Park et al. 2019, arXiv 1904.08779): at most this many spans of frames of a training
            utterance are silenced; 0 switches it off.
        time_mask_frames: a span is shorter than this (10 ms a frame).
        frequency_masks: at most this many bands of filterbank channels likewise.
        frequency_mask_channels: a band is narrower than this.

    Raises:
        UserError: a count below 0 or a width below 2.
    """

    groups = {"cnn": ["crdnn.CNN.*"], "rnn": ["crdnn.RNN.*"], "dnn": ["crdnn.DNN.*", "head"]}

    def __init__(
        self,
        recipe: Recipe | dict[str, Any] | None = None,
        init_from: str | None = None,
        n_mels: int = 40,
        cnn_channels: list[int] = [24, 32],  # noqa: B006 - a list default is what the config file shows
        cnn_pooling: list[int] = [2, 2],  # noqa: B006
        time_pooling_size: int = 3,
        rnn_layers: int = 2,
        rnn_neurons: int = 160,
        rnn_bidirectional: bool = True,
        dnn_blocks: int = 2,
        dnn_neurons: int = 160,
        dropout: float = 0.15,
        time_masks: int = 0,
        time_mask_frames: int = 10,
        frequency_masks: int = 0,
        frequency_mask_channels: int = 6,
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
        shape = {
            "n_mels": n_mels,
            "cnn_channels": list(cnn_channels),
            "cnn_pooling": list(cnn_pooling),
            "time_pooling_size": time_pooling_size,
            "rnn_layers": rnn_layers,
            "rnn_neurons": rnn_neurons,
            "rnn_bidirectional": rnn_bidirectional,
            "dnn_blocks": dnn_blocks,
            "dnn_neurons": dnn_neurons,
            "dropout": dropout,
            "time_masks": time_masks,
            "time_mask_frames": time_mask_frames,
            "frequency_masks": frequency_masks,
            "frequency_mask_channels": frequency_mask_channels,
        }
        self.save_hyperparameters({**self.base_arguments(), **shape})
        self.time_pooling_size = time_pooling_size
        self.fbank = Fbank(sample_rate=16_000, n_mels=n_mels)
        self.crdnn = CRDNN(
            input_size=n_mels,
            cnn_blocks=len(cnn_channels),
            cnn_channels=list(cnn_channels),
            cnn_kernelsize=(3, 3),
            inter_layer_pooling_size=list(cnn_pooling),
            time_pooling=True,
            time_pooling_size=time_pooling_size,
            rnn_class=LSTM,
            rnn_layers=rnn_layers,
            rnn_neurons=rnn_neurons,
            rnn_bidirectional=rnn_bidirectional,
            dnn_blocks=dnn_blocks,
            dnn_neurons=dnn_neurons,
            dropout=dropout,
        )
        self.masks = [
            *spec_augment("time_masks", time_masks, "time_mask_frames", time_mask_frames, dim=1),
            *spec_augment(
                "frequency_masks", frequency_masks, "frequency_mask_channels", frequency_mask_channels, dim=2
            ),
        ]
        self.head = nn.Linear(dnn_neurons, len(self.vocabulary))
        self.finish_build()

    def features(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel filterbanks in dB `(B, T, F)`, normalised per utterance and channel over valid frames."""
        with torch.autocast(signal.device.type, enabled=False):
            log_mel = self.fbank(signal.float())
        return normalise_features(log_mel, lengths // HOP_LENGTH + 1)

    def encode(self, inputs: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(B, T, F)` -> (logits `(B, T', V)`, frames `(B,)`), `T' = T // time_pooling_size`."""
        if self.training:
            for mask in self.masks:
                inputs = mask(inputs.clone())  # in place
        with valid_lengths(frames, inputs.shape[1]):
            x = self.crdnn.time_pooling(self.crdnn.CNN(inputs))
        frames = torch.div(frames, self.time_pooling_size, rounding_mode="floor").clamp(min=1)
        x = x.flatten(2)
        rnn = self.crdnn.RNN.rnn
        if not isinstance(rnn, nn.LSTM):  # an exported layer takes padded input and its frames
            return self.head(self.crdnn.DNN(rnn(x, frames))), frames
        packed = pack_padded_sequence(x, frames.cpu(), batch_first=True, enforce_sorted=False)
        packed = packed_lstm(rnn, packed)
        # Padding never reaches the DNN, so neither BatchNorm nor an observer can see it.
        logits = self.head(self.crdnn.DNN(packed.data))
        packed = PackedSequence(logits, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        return pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0], frames

    def batch_norm_pairs(self) -> Iterator[tuple[str, nn.Module, nn.Module]]:
        """Linear -> BatchNorm1d of each DNN block (the CNN blocks use LayerNorm)."""
        if "DNN" not in self.crdnn:
            return
        for name, block in self.crdnn.DNN.items():
            if isinstance(block["norm"], BatchNorm1d):
                yield f"crdnn.DNN.{name}.norm", block["linear"].w, block["norm"].norm


def spec_augment(
    count_name: str, count: int, width_name: str, width: int, dim: int
) -> Iterator[SpectrogramDrop]:
    """Sets 0 to `count` spans of 1 to `width - 1` positions along `dim` of `(B, T, F)` to zero, the mean there."""
    for name, value, least in ((count_name, count, 0), (width_name, width, 2)):
        if value < least:
            raise UserError(f"{name} is {value}; allowed are integers from {least}")
    if count:
        yield SpectrogramDrop(1, width, 0, count, replace="zeros", dim=dim)


def normalise_features(log_mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Zero mean and unit variance per utterance and channel over valid frames; padding becomes zero.

    Args:
        log_mel: `(B, T, F)`, dB.
        frames: valid frames `(B,)`.
    """
    mask = frame_mask(frames, log_mel.shape[1]).unsqueeze(-1)
    count = frames.to(log_mel.dtype)[:, None, None]
    mean = log_mel.masked_fill(~mask, 0.0).sum(1, keepdim=True) / count
    centred = (log_mel - mean).masked_fill(~mask, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / (variance + 1e-5).sqrt(), frames
