"""An LSTM over utterances of unequal length whose last state nobody needs.

PyTorch on a CPU steps through packed input frame by frame, and adds to the gradient of the weights at each. oneDNN's
kernel runs a whole direction at once, in a third of the time, but takes padded input. Padding behind an utterance does
not reach its frames going forward; going backward each utterance is turned around within its own length first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from qat.layers.lstm import QuantLSTM, float_weights, packed_rows


def packed_lstm(rnn: nn.LSTM, packed: PackedSequence) -> PackedSequence:
    """Output of `rnn(packed)` from a state of zeros; in training on a CPU equal to it but for rounding.

    Args:
        rnn: plain or quantized, without projection.
        packed: frames of all utterances.
    """
    data, sizes, *order = packed
    if data.device.type != "cpu" or not (rnn.training and torch.is_grad_enabled()):
        return rnn(packed)[0]
    if isinstance(rnn, QuantLSTM):
        data, groups = rnn.input_quantizer(data), packed_rows(sizes, data.device)
    for layer in range(rnn.num_layers):
        if isinstance(rnn, QuantLSTM):
            data, weights = rnn.layer_input(data, groups, int(sizes[0]), layer), rnn.layer_weights(layer)
        else:
            data = nn.functional.dropout(data, rnn.dropout) if layer and rnn.dropout else data
            weights = float_weights(rnn, layer)
        data = _run_layer(data, sizes, weights, 2 if rnn.bidirectional else 1)
    return PackedSequence(data, sizes, *order)


def _run_layer(data: Tensor, sizes: Tensor, weights: list[Tensor], directions: int) -> Tensor:
    """One stacked layer on packed frames `(N, F)` of `sizes (T,)` utterances a frame -> `(N, directions * H)`."""
    x, lengths = pad_packed_sequence(PackedSequence(data, sizes), batch_first=True)
    steps = torch.arange(x.shape[1])
    valid = steps < lengths[:, None]
    turned = torch.where(valid, lengths[:, None] - 1 - steps, steps)[:, :, None]
    each = len(weights) // directions
    outputs = []
    for direction in range(directions):
        mine = weights[direction * each : (direction + 1) * each]
        state = x.new_zeros(1, len(x), mine[1].shape[1])
        y = torch.gather(x, 1, turned.expand_as(x)) if direction else x
        y = torch._VF.lstm(y, (state, state), mine, each == 4, 1, 0.0, True, False, True)[0]  # type: ignore[attr-defined]
        outputs.append(torch.gather(y, 1, turned.expand_as(y)) if direction else y)
    return torch.cat(outputs, -1).transpose(0, 1)[valid.T]
