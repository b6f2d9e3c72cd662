"""What each graph of an attention model computes, before it is traced."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qat.models.attention_decoder import first_state, step
from qat.runtime.attention_parts import attend_one, container, decode, parts_of
from qat.runtime.layers import replace_layers_
from qat.runtime.manifest import DECODER, ENCODER, LANGUAGE_MODEL
from tests.models.attention_models import attention_model, batch_of


def test_a_model_without_a_language_model_has_two_graphs(tmp_path: Path) -> None:
    assert list(parts_of(attention_model(tmp_path))) == [ENCODER, DECODER, LANGUAGE_MODEL]
    assert list(parts_of(attention_model(tmp_path, lm="none"))) == [ENCODER, DECODER]


def test_inputs_and_outputs_have_different_names_and_tensors(tmp_path: Path) -> None:
    for part in parts_of(attention_model(tmp_path)).values():
        assert not set(part.inputs) & set(part.outputs)
        assert set(part.axes) == {*part.inputs, *part.outputs}
        assert len({id(item) for item in part.inputs.values()}) == len(
            part.inputs
        )  # the exporter merges twins


def test_traced_parts_hold_the_children_that_they_run(tmp_path: Path) -> None:
    parts = parts_of(attention_model(tmp_path))
    names = [name for name, _ in parts[DECODER].module.named_children()]
    assert names == ["embedding", "decoder", "seq_lin"]
    assert [name for name, _ in parts[LANGUAGE_MODEL].module.named_children()] == ["lm"]


@torch.no_grad()
def test_a_location_layer_that_is_not_plain_takes_the_models_own_form(tmp_path: Path) -> None:
    module: Any = attention_model(tmp_path)
    replace_layers_(plain := copy.deepcopy(module), "float")
    states = module.states(batch_of(1).signal, batch_of(1).lengths)
    attn, projected = plain.decoder.attn, states.projected
    attn.mlp_loc = Renamed(attn.mlp_loc)
    state = first_state(module.decoder, projected)
    hidden = state.hidden.clone().uniform_(-1, 1)
    token = torch.tensor([3])
    output, expected = step(module.decoder, module.embedding(token), replace(state, hidden=hidden), projected)
    part = container(embedding=plain.embedding, decoder=plain.decoder, seq_lin=plain.seq_lin)
    parents = torch.zeros(1, dtype=torch.int64)
    keys, values = projected.keys[0], projected.values[0]
    found = decode(part, token, parents, hidden, state.context, state.attention, keys, values)
    wanted = (module.seq_lin(output), expected.hidden, expected.context, expected.attention)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)
    assert attend_one(attn, hidden[:, 0], state.attention, parents, keys).shape == state.attention.shape


class Renamed(nn.Module):
    """Any layer that is not an `nn.Linear`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)
