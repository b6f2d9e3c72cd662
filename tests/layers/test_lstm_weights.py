"""An LSTM's parameters and frames, sorted."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from qat.layers.lstm_weights import (
    float_weights,
    gates_first,
    names_of_layer,
    packed_rows,
    quantize_rows,
    utterances_of,
)


def test_three_gates_come_before_the_cell_candidate() -> None:
    assert gates_first(torch.arange(8)).tolist() == [0, 1, 2, 3, 6, 7, 4, 5]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_names_and_weights_of_a_stacked_layer_are_those_of_the_module(bidirectional: bool) -> None:
    rnn = nn.LSTM(3, 4, num_layers=2, bidirectional=bidirectional)
    names = [name for layer in range(2) for names in names_of_layer(rnn, layer) for name in names]
    assert names == [name for name, _ in rnn.named_parameters()]
    weights = [weight for layer in range(2) for weight in float_weights(rnn, layer)]
    assert all(one is two for one, two in zip(weights, rnn.parameters(), strict=True))


def test_packed_frames_know_their_row_and_utterances_come_back_whole() -> None:
    x, lengths = torch.randn(3, 5, 2), [5, 3, 2]
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True)
    rows = packed_rows(packed.batch_sizes, x.device)
    assert torch.bincount(rows).tolist() == lengths
    rnn = nn.LSTM(2, 2, batch_first=True)
    for one, two in zip(
        utterances_of(rnn, packed), (x[row, :count] for row, count in enumerate(lengths)), strict=True
    ):
        assert torch.equal(one, two)


def test_a_rows_levels_do_not_depend_on_its_neighbours_nor_on_packing() -> None:
    x = torch.randn(3, 5, 2) * torch.tensor([1.0, 100.0, 0.01])[:, None, None]
    whole = quantize_rows(x, None, 3)
    for row in range(3):
        assert torch.equal(quantize_rows(x[row : row + 1], None, 1)[0], whole[row])
    packed = pack_padded_sequence(x, torch.tensor([5, 5, 5]), batch_first=True)
    rows = packed_rows(packed.batch_sizes, x.device)
    assert torch.equal(quantize_rows(packed.data, rows, 3), whole.transpose(0, 1).reshape(15, 2))
