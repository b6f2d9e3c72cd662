"""Which neighbours in SpeechBrain's CRDNN lobe belong together: norms to fold, channels to scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from speechbrain.nnet.normalization import BatchNorm1d
from torch import Tensor, nn

from qat.layers.equalize import ScalePair

AFTER_LSTM = "the LSTM's output is bounded by tanh, which no factor passes"


def batch_norms_of(crdnn: Any, name: str) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Yield (name of the norm, producing layer, `nn.BatchNorm1d`) of each DNN block of a lobe called `name`."""
    if "DNN" not in crdnn:
        return
    for block_name, block in crdnn.DNN.items():
        if isinstance(block["norm"], BatchNorm1d):
            yield f"{name}.DNN.{block_name}.norm", block["linear"].w, block["norm"].norm


def scale_pairs_of(crdnn: Any, name: str, readers: Sequence[str], reason: str = "") -> Iterator[ScalePair]:
    """Channels between the layers of a lobe called `name`: after LayerNorms, and after the blocks of the DNN.

    Args:
        crdnn: the lobe; LeakyReLU and pooling by the maximum, which are all that stands between, let factors pass.
        name: of it in the model.
        readers: names of the layers that read its output.
        reason: why their input cannot be scaled; empty where it can.
    """
    yield from convolution_pairs(crdnn, name)
    lstm, blocks = f"{name}.RNN.rnn", list(getattr(crdnn, "DNN", {}).items())
    first = (f"{name}.DNN.{blocks[0][0]}.linear.w",) if blocks else tuple(readers)
    yield ScalePair(lstm, first, reason=AFTER_LSTM)
    for index, (block_name, block) in enumerate(blocks):
        place = f"{name}.DNN.{block_name}"
        producer = f"{place}.norm.norm" if isinstance(block["norm"], BatchNorm1d) else f"{place}.linear.w"
        if index + 1 < len(blocks):
            yield ScalePair(producer, (f"{name}.DNN.{blocks[index + 1][0]}.linear.w",))
        else:
            yield ScalePair(producer, tuple(readers), reason=reason)


def convolution_pairs(crdnn: Any, name: str) -> Iterator[ScalePair]:
    """LayerNorm `(F, C)` -> the next convolution, channel by channel; the last one -> LSTM, by pooled frequency too."""
    blocks = list(crdnn.CNN.items())
    for index, (block_name, block) in enumerate(blocks):
        place = f"{name}.CNN.{block_name}"
        inner, outer = (block[key].norm.normalized_shape for key in ("norm_1", "norm_2"))
        yield ScalePair(f"{place}.norm_1.norm", (f"{place}.conv_2.conv",), channels_of(*inner))
        if index + 1 < len(blocks):
            after, places = f"{name}.CNN.{blocks[index + 1][0]}.conv_1.conv", channels_of(*outer)
        else:
            width = crdnn.RNN.rnn.input_size // outer[1]
            after, places = f"{name}.RNN.rnn", pooled_places(outer[0], width, outer[1], pooling_of(block))
        yield ScalePair(f"{place}.norm_2.norm", (after,), places)


def channels_of(frequencies: int, channels: int) -> Tensor:
    """Channel of each value of `(F, C)`, flattened `(F C,)`."""
    return torch.arange(channels, device="cpu").repeat(
        frequencies
    )  # moved to the weights where they are scaled


def pooling_of(block: Any) -> int:
    """Frequencies that a CNN block takes the maximum of."""
    size = block["pooling"].pool_layer.kernel_size
    return size if isinstance(size, int) else int(size[-1])


def pooled_places(frequencies: int, pooled: int, channels: int, pooling: int) -> Tensor:
    """Place in the flattened `(F', C)` that each value of `(F, C)` is pooled into `(F C,)`; -1 where it is left out.

    >>> pooled_places(3, 1, 2, 2).tolist()
    [0, 1, 0, 1, -1, -1]
    """
    band = torch.arange(frequencies, device="cpu") // pooling
    places = band[:, None] * channels + torch.arange(channels, device="cpu")
    return places.masked_fill(band[:, None] >= pooled, -1).flatten()
