"""SpeechBrain's attentional GRU decoder and its language model, one step at a time.

The modules are SpeechBrain's, so that a folder's weights fit by name; the arithmetic is written down here once, for
training, search and export. Encoder states are projected once an utterance, and the beam reads them without copies:
attention weights sum to one, so the context's projection may come before the weighted sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.nnet.RNN import AttentionalRNNDecoder
from torch import Tensor


@dataclass(frozen=True)
class Projected:
    """Encoder states as the attention reads them.

    Attributes:
        keys: `(B, T, A)`, what energies are computed of; B is 1 where all hypotheses read one utterance.
        values: `(B, T, A)`, what the context is a weighted sum of.
        valid: bool `(B, T)`.
    """

    keys: Tensor
    values: Tensor
    valid: Tensor


@dataclass(frozen=True)
class DecoderState:
    """What a decoder carries from one label to the next, for N hypotheses.

    Attributes:
        hidden: of the recurrent layers `(N, L, H)`.
        context: `(N, A)`.
        attention: weights of the last step `(N, T)`.
    """

    hidden: Tensor
    context: Tensor
    attention: Tensor


@dataclass(frozen=True)
class States:
    """What the encoder hands on.

    Attributes:
        hidden: encoder states `(B, T, D)`.
        logits: of the CTC head `(B, T, V)`.
        frames: valid frames `(B,)`.
        projected: what the attention reads.
    """

    hidden: Tensor
    logits: Tensor
    frames: Tensor
    projected: Projected


def first_state(decoder: AttentionalRNNDecoder, projected: Projected) -> DecoderState:
    """Zeros, and attention spread evenly over the valid frames."""
    rows, total, width = projected.keys.shape
    count = projected.valid.sum(1, keepdim=True)
    keys = projected.keys.float()
    return DecoderState(
        hidden=keys.new_zeros(rows, decoder.num_layers, decoder.hidden_size),
        context=keys.new_zeros(rows, width),
        attention=projected.valid.to(keys.dtype) / count,
    )


def step(
    decoder: AttentionalRNNDecoder, embedded: Tensor, state: DecoderState, projected: Projected
) -> tuple[Tensor, DecoderState]:
    """One label further.

    Args:
        decoder: `gru` with location-aware attention (Chorowski 2015, arXiv 1506.07503).
        embedded: the label before `(N, E)`.
        state: of N hypotheses.
        projected: of as many utterances, or of one.

    Returns:
        what the output layer reads `(N, H)`, and the next state.
    """
    inputs = decoder.drop(torch.cat([embedded, state.context], dim=-1))
    output, hidden = recur(decoder.rnn, inputs, state.hidden)
    attention = attend(decoder.attn, output, state.attention, projected)
    context = weighted_sum(attention, projected.values)
    return decoder.proj(torch.cat([context, output], dim=1)), DecoderState(hidden, context, attention)


def recur(rnn: Any, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Stacked cells: `(N, I)` and `(N, L, H)` -> last layer's output `(N, H)`, all layers' `(N, L, H)`."""
    states = []
    for index, cell in enumerate(rnn.rnn_cells):
        x = cell(rnn.dropout_layers[index - 1](x) if index else x, hidden[:, index])
        states.append(x)
    return x, torch.stack(states, dim=1)


def attend(attn: Any, output: Tensor, before: Tensor, projected: Projected) -> Tensor:
    """Attention weights `(N, T)`, float32, from the recurrent output `(N, H)` and the weights before."""
    location = attn.mlp_loc(attn.conv_loc(before.unsqueeze(1)).transpose(1, 2))
    energy = attn.mlp_attn(torch.tanh(projected.keys + attn.mlp_dec(output).unsqueeze(1) + location))
    energy = energy.squeeze(-1).float() * attn.scaling
    return torch.softmax(energy.masked_fill(~projected.valid, -torch.inf), dim=-1)


def weighted_sum(attention: Tensor, values: Tensor) -> Tensor:
    """`(N, T)` and `(N or 1, T, A)` -> `(N, A)`."""
    if values.shape[0] == 1:
        return attention.to(values.dtype) @ values[0]
    return torch.bmm(attention.to(values.dtype).unsqueeze(1), values).squeeze(1)


def best_labels(
    decoder: Any, embedding: Any, output_layer: Any, projected: Projected, bos: int, eos: int
) -> list[list[int]]:
    """The best label at each step of each utterance until its end, or until there are as many labels as frames."""
    rows, total = projected.valid.shape
    label = torch.full((rows,), bos, dtype=torch.int64, device=projected.keys.device)
    state, found = first_state(decoder, projected), []
    ended = torch.zeros(rows, dtype=torch.bool, device=label.device)
    for _ in range(total):
        output, state = step(decoder, embedding(label), state, projected)
        label = output_layer(output).argmax(-1)
        ended |= label == eos
        if bool(ended.all()):
            break
        found.append(label.masked_fill(ended, eos))
    labels = torch.stack(found, dim=1).tolist() if found else [[] for _ in range(rows)]
    return [[label for label in row if label != eos] for row in labels]


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean over labels; `(B, U, V)` and `(B, U)`, -100 where none is."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), label_smoothing=smoothing)


def label_divergence(teacher: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(logits)) of each label; `(B, U, V)` each -> `(B, U)`."""
    scores = [F.log_softmax(item.float(), dim=-1) for item in (logits, teacher)]
    return F.kl_div(scores[0], scores[1], reduction="none", log_target=True).sum(-1)
