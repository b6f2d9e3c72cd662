"""The three graphs of an attention model: what each computes, from what to what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.audio_file import SAMPLE_RATE
from qat.models.attention_decoder import Projected, attend, recur, weighted_sum
from qat.models.attention_parts import language_model_step
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
            **{name: frames for name in ("states", "keys", "values", "logits")},
        },
    )


def encode(module: Any, signal: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    """`AttentionModule.states` as tensors."""
    states = module.states(signal, lengths)
    return states.hidden, states.projected.keys, states.projected.values, states.logits, states.frames


def decoder_part(module: Any) -> Part:
    """Last tokens and what the decoder carries along -> logits of the next, and what it carries on."""
    decoder, rows, frames = module.decoder, 3, 7
    keys = torch.zeros(frames, decoder.attn_dim)
    hypotheses = ("hypotheses",)
    return Part(
        module=container(embedding=module.embedding, decoder=decoder, seq_lin=module.seq_lin),
        run=decode,
        inputs={
            "tokens": torch.zeros(rows, dtype=torch.int64),
            "hidden": torch.zeros(rows, decoder.num_layers, decoder.hidden_size),
            "context": torch.zeros(rows, decoder.attn_dim),
            "attention": torch.full((rows, frames), 1 / frames),
            "keys": keys,
            "values": keys.clone(),  # the exporter makes one input of two that are the same tensor
        },
        outputs=("logits", "next_hidden", "next_context", "next_attention"),
        axes={
            **{name: hypotheses for name in ("tokens", "hidden", "context", "logits", "next_hidden", "next_context")},
            **{name: ("hypotheses", "frames") for name in ("attention", "next_attention")},
            **{name: ("frames",) for name in ("keys", "values")},
        },
    )


def decode(
    part: Any, tokens: Tensor, hidden: Tensor, context: Tensor, attention: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, ...]:
    """`qat.models.attention_decoder.step` of N hypotheses of one utterance without padding, and the output layer."""
    decoder = part.decoder
    output, hidden = recur(decoder.rnn, torch.cat([part.embedding(tokens), context], dim=-1), hidden)
    attention = attend_one(decoder.attn, output, attention, keys)
    context = weighted_sum(attention, values[None])
    return part.seq_lin(decoder.proj(torch.cat([context, output], dim=1))), hidden, context, attention


def attend_one(attn: Any, output: Tensor, before: Tensor, keys: Tensor) -> Tensor:
    """`attend` over one utterance without padding; in a form of its own where the layers below tanh are float."""
    location, energy = attn.mlp_loc, attn.mlp_attn
    if type(location) is not nn.Linear or type(energy) is not nn.Linear:
        valid = torch.ones(1, keys.shape[0], dtype=torch.bool)
        return attend(attn, output, before, Projected(keys[None], keys[None], valid))
    query = attn.mlp_dec(output)
    if location.bias is not None:
        query = query + location.bias
    features = attn.conv_loc(before.unsqueeze(1)).transpose(1, 2)
    energies = location_energy(query, features, keys, location.weight.t(), energy.weight)
    return torch.softmax(energies * attn.scaling if attn.scaling != 1 else energies, dim=-1)


def language_model_part(module: Any) -> Part:
    """Last tokens and states -> logits of the next, and states."""
    layer, rows = module.lm.rnn.rnn, 3
    state = torch.zeros(rows, layer.num_layers, layer.hidden_size)
    names = ("tokens", "hidden", "cell", "logits", "next_hidden", "next_cell")
    return Part(
        module=container(lm=module.lm),
        run=predict,
        inputs={"tokens": torch.zeros(rows, dtype=torch.int64), "hidden": state, "cell": state.clone()},
        outputs=names[3:],
        axes={name: ("hypotheses",) for name in names},
    )


def predict(part: Any, tokens: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
    """`language_model_step` on states whose first axis is the hypothesis."""
    state = hidden.transpose(0, 1), cell.transpose(0, 1)
    logits, (hidden, cell) = language_model_step(part.lm, tokens, state)
    return logits, hidden.transpose(0, 1), cell.transpose(0, 1)


def container(**children: nn.Module) -> nn.Module:
    """A module of these children alone: what is traced keeps their names, and holds nothing else."""
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module.eval()
