"""The three graphs of an attention model: what each computes, from what to what.

Of the hypotheses of a beam, many continue one and the same (about half, where 80 do). What depends on the states before
alone, the recurrent products and the convolution over attention weights, is computed once for each of these parents;
`parents (N,)` says whose child a hypothesis is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.audio_file import SAMPLE_RATE
from qat.layers.cell import gru_update, lstm_update
from qat.models.attention_decoder import Projected, attend, weighted_sum
from qat.runtime.attention_graph import location_energy
from qat.runtime.manifest import DECODER, ENCODER, LANGUAGE_MODEL


@dataclass(frozen=True)
class Part:
    """One graph.

    Attributes:
        module: what is traced, and nothing else of the model.
        run: the module and the inputs -> the outputs, in order.
        inputs: name -> example.
        outputs: names.
        axes: name of an input or output -> names of its free axes, the first ones.
    """

    module: nn.Module
    run: Callable[..., Any]
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]


def parts_of(module: Any) -> dict[str, Part]:
    """File name -> graph, of an `AttentionModule` whose layers are in exported form; its own children get lost.

    Args:
        module: a copy, on the CPU and in eval mode.
    """
    found = {DECODER: decoder_part(module)}
    if module.lm is not None:
        found[LANGUAGE_MODEL] = language_model_part(module)
    return {ENCODER: encoder_part(module), **found}


def encoder_part(module: Any) -> Part:
    """Samples -> all that is computed once an utterance."""
    lengths = torch.tensor([2 * SAMPLE_RATE, SAMPLE_RATE])
    frames = ("batch", "frames")
    return Part(
        module=module,
        run=encode,
        inputs={"signal": torch.zeros(2, 2 * SAMPLE_RATE), "lengths": lengths},
        outputs=("states", "keys", "values", "logits", "frames"),
        axes={
            **{"signal": ("batch", "samples"), "lengths": ("batch",), "frames": ("batch",)},
            **dict.fromkeys(("states", "keys", "values", "logits"), frames),
        },
    )


def encode(module: Any, signal: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    """`AttentionModule.states` as tensors."""
    states = module.states(signal, lengths)
    return states.hidden, states.projected.keys, states.projected.values, states.logits, states.frames


def decoder_part(module: Any) -> Part:
    """Last tokens and what the decoder carries along -> logits of the next, and what it carries on."""
    decoder, rows, before, frames = module.decoder, 3, 2, 7
    keys = torch.zeros(frames, decoder.attn_dim)
    return Part(
        module=container(embedding=module.embedding, decoder=decoder, seq_lin=module.seq_lin),
        run=decode,
        inputs={
            "tokens": torch.zeros(rows, dtype=torch.int64),
            "parents": torch.zeros(rows, dtype=torch.int64),
            "hidden": torch.zeros(before, decoder.num_layers, decoder.hidden_size),
            "context": torch.zeros(before, decoder.attn_dim),
            "attention": torch.full((before, frames), 1 / frames),
            "keys": keys,
            "values": keys.clone(),  # the exporter makes one input of two that are the same tensor
        },
        outputs=("logits", "next_hidden", "next_context", "next_attention"),
        axes={
            **dict.fromkeys(("tokens", "parents", "logits", "next_hidden", "next_context"), ("hypotheses",)),
            **dict.fromkeys(("hidden", "context"), ("parents",)),
            **{"attention": ("parents", "frames"), "next_attention": ("hypotheses", "frames")},
            **dict.fromkeys(("keys", "values"), ("frames",)),
        },
    )


def decode(
    part: Any,
    tokens: Tensor,
    parents: Tensor,
    hidden: Tensor,
    context: Tensor,
    attention: Tensor,
    keys: Tensor,
    values: Tensor,
) -> tuple[Tensor, ...]:
    """`qat.models.attention_decoder.step` of N hypotheses of one utterance without padding, and the output layer."""
    decoder = part.decoder
    x, states = torch.cat([part.embedding(tokens), context[parents]], dim=-1), []
    for index, cell in enumerate(decoder.rnn.rnn_cells):
        before = hidden[:, index]
        x = gru_update(cell.inputs(x), cell.recurrent(before)[parents], before[parents])
        states.append(x)
    attention = attend_one(decoder.attn, x, attention, parents, keys)
    context = weighted_sum(attention, values[None])
    logits = part.seq_lin(decoder.proj(torch.cat([context, x], dim=1)))
    return logits, torch.stack(states, dim=1), context, attention


def attend_one(attn: Any, output: Tensor, before: Tensor, parents: Tensor, keys: Tensor) -> Tensor:
    """`attend` over one utterance without padding; in a form of its own where the layers below tanh are float."""
    location, energy = attn.mlp_loc, attn.mlp_attn
    if type(location) is not nn.Linear or type(energy) is not nn.Linear:
        valid = torch.ones(1, keys.shape[0], dtype=torch.bool)
        return attend(attn, output, before[parents], Projected(keys[None], keys[None], valid))
    query = attn.mlp_dec(output)
    if location.bias is not None:
        query = query + location.bias
    features = attn.conv_loc(before.unsqueeze(1)).transpose(1, 2)[parents]
    energies = location_energy(query, features, keys, location.weight.t(), energy.weight)
    return torch.softmax(energies * attn.scaling if attn.scaling != 1 else energies, dim=-1)


def language_model_part(module: Any) -> Part:
    """Last tokens and states -> logits of the next, and states."""
    layer, rows, before = module.lm.rnn.rnn, 3, 2
    state = torch.zeros(before, layer.num_layers, layer.hidden_size)
    tokens = torch.zeros(rows, dtype=torch.int64)
    outputs = ("logits", "next_hidden", "next_cell")
    return Part(
        module=container(lm=module.lm),
        run=predict,
        inputs={"tokens": tokens, "parents": tokens.clone(), "hidden": state, "cell": state.clone()},
        outputs=outputs,
        axes={
            **dict.fromkeys(("tokens", "parents", *outputs), ("hypotheses",)),
            **dict.fromkeys(("hidden", "cell"), ("parents",)),
        },
    )


def predict(part: Any, tokens: Tensor, parents: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
    """`language_model_step` of N hypotheses on states `(P, L, H)` of those before."""
    lm, states = part.lm, []
    x = lm.embedding(tokens)
    for index, layer in enumerate(lm.rnn.rnn.cells):
        sums = layer.recurrent(hidden[:, index])[parents]
        states.append(lstm_update(layer.inputs(x), sums, cell[:, index][parents]))
        x = states[-1][0]
    hiddens, cells = zip(*states, strict=True)
    logits = lm.out(lm.dnn(x.unsqueeze(1))).squeeze(1)
    return logits, torch.stack(hiddens, dim=1), torch.stack(cells, dim=1)


def container(**children: nn.Module) -> nn.Module:
    """A module of these children alone: what is traced keeps their names, and holds nothing else."""
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module.eval()
