"""Layers are offered what they can become, and those that share a tensor become it together."""

from __future__ import annotations

from pathlib import Path

from qat.layers.swap import quant_layers, weighted_layers
from qat.recipe import Recipe
from qat.search.candidates import FLOAT, Candidate, Unit, all_candidates, units_of
from tests.conftest import build
from tests.models.attention_models import attention_model


def units(kind: str) -> dict[str, Unit]:
    return {unit.name: unit for unit in units_of(build(kind), all_candidates([8, 4]))}


def test_every_layer_is_in_one_unit(kind: str) -> None:
    layers = [layer for unit in units(kind).values() for layer in unit.layers]
    assert sorted(layers) == sorted(name for name, _ in weighted_layers(build(kind)))


def test_layers_that_read_one_tensor_are_one_unit() -> None:
    together = units("wav2vec2")["hf.wav2vec2.encoder.layers.0.attention"]
    assert [name.rpartition(".")[2] for name in together.layers] == ["q_proj", "k_proj", "v_proj"]


def test_what_the_recipe_refuses_is_no_candidate() -> None:
    found = units("crdnn")
    frame = Candidate(8, "frame")
    assert frame not in found["crdnn.CNN.block_0.conv_1.conv"].candidates  # along time and frequency
    assert frame not in found["crdnn.RNN.rnn"].candidates
    assert frame in found["head"].candidates
    assert frame not in units("wav2vec2")["hf.wav2vec2.encoder.pos_conv_embed.conv"].candidates  # of groups


def test_float_is_always_one(kind: str) -> None:
    assert all(unit.candidates[0] == FLOAT for unit in units(kind).values())


def test_a_model_takes_every_candidate_it_is_offered(kind: str) -> None:
    for candidate in all_candidates([8, 4])[1:]:
        fitting = [unit for unit in units(kind).values() if candidate in unit.candidates]
        rules = [candidate.rule(layer) for unit in fitting for layer in unit.layers]
        names = {layer for unit in fitting for layer in unit.layers}
        found = build(kind, Recipe(preset="x", rules=[*rules, *([FLOAT.rule("*")])]))
        assert {name for name, _ in quant_layers(found)} >= names, candidate.name


def test_fewer_bits_share_the_kernel_they_are_unpacked_for() -> None:
    kernels = {item.kernel for item in all_candidates([8, 4, 3, 2])}
    assert kernels == {"float", "static 8", "static 4", "frame 8", "alone 8"}


def test_what_an_attention_model_keeps_in_float_is_offered_nothing_else(tmp_path: Path) -> None:
    found = {unit.name: unit for unit in units_of(attention_model(tmp_path), all_candidates([8, 4]))}
    for name in ("conv_loc", "mlp_loc", "mlp_attn"):
        assert found[f"decoder.attn.{name}"].candidates == (FLOAT,)
    assert found["decoder.attn"].layers == ("decoder.attn.mlp_enc", "decoder.attn.mlp_out")
    for name in ("decoder.attn", "decoder.attn.mlp_dec", "decoder.rnn.rnn_cells.0", "seq_lin.w", "lm.out.w"):
        assert Candidate(8, "static") in found[name].candidates, name
