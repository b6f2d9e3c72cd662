"""Prices come from the measurements, and what cannot be the best is not tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.equalize import plant_outliers_
from datamodules.base import SpeechDataModule
from qat.layers.equalize import scale_pair_
from qat.recipe import Recipe
from qat.search.candidates import FLOAT, Candidate, Unit, all_candidates
from qat.search.cost import REST
from qat.search.models import uniform
from qat.search.options import SearchOptions
from qat.search.sensitivity import loss_of
from qat.search.store import Store
from qat.search.workbench import Workbench
from tests.search.conftest import decided


def unit_of(work: Workbench, name: str) -> object:
    return next(unit for unit in work.units if unit.name == name)


def test_the_price_of_a_unit_is_that_of_its_layers(bench: Callable[..., Workbench]) -> None:
    work = bench()
    unit = unit_of(work, "hf.wav2vec2.encoder.layers.0.attention")
    assert work.ms(unit, Candidate(8, "static")) == 3 * 1.0
    assert work.bytes(unit, FLOAT) == 3 * 4 * 16 * 16
    assert work.bytes(unit, Candidate(8, "frame")) == 3 * 16 * 16


def test_what_belongs_to_no_layer_is_charged_to_all_by_their_share(bench: Callable[..., Workbench]) -> None:
    work = bench()
    work.store.costs["static 8"].ms[REST] += len(work.layers)
    unit = unit_of(work, "hf.wav2vec2.encoder.layers.0.attention")
    assert work.ms(unit, Candidate(8, "static")) == pytest.approx(3 * (1.0 + 1.0))
    assert work.ms(unit, FLOAT) == 3 * 3.0


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (Candidate(4, "frame"), 29 * 16 // 2),
        (Candidate(3, "static"), 29 * 16 * 3 // 8),
        (Candidate(4), 29 * 16 // 2),
    ],
)
def test_bytes_that_no_file_has_follow_from_the_bits(
    bench: Callable[..., Workbench], candidate: Candidate, expected: int
) -> None:
    work = bench()
    assert work.layer_bytes("hf.lm_head", candidate) == expected


def test_for_speed_only_what_is_worth_more_than_what_loses_less_is_tried(
    bench: Callable[..., Workbench],
) -> None:
    work = bench()
    head = unit_of(work, "hf.lm_head")
    eight = ["W8A8 static 99.99", "W8A8 static 99.6", "W8A8 frame", "W8 weights alone"]
    four = ["W4A8 static 99.99", "W4A8 static 99.6", "W4A8 frame", "W4 weights alone"]
    assert [item.name for item in work.worth_trying(head)] == [*eight, *four]
    for costs in work.store.costs.values():
        costs.ms["hf.lm_head"] = 1.0
    assert [item.name for item in work.worth_trying(head)] == ["W8 weights alone", "W4 weights alone"]
    work.store.costs["alone 8"].bytes["hf.lm_head"] = 10_000
    work.store.costs["alone 8"].ms["hf.lm_head"] = 2.0
    assert not [item for item in work.worth_trying(head) if item.activations == "float"]


def test_the_faster_kernel_of_four_bits_is_priced_and_stored(bench: Callable[..., Workbench]) -> None:
    work, four = bench(), Candidate(4, "static")
    head = unit_of(work, "hf.lm_head")
    slow, fast = work.store.costs["static 4"], work.store.costs["static 8"]
    slow.bytes["hf.lm_head"] = 7
    assert work.four_bit_linear == work.recipe(uniform(work.units, four)).four_bit_linear == "integer"
    assert work.ms(head, four) == work.ms(head, Candidate(8, "static")) and work.bytes(head, four) != 7
    slow.ms, fast.ms = fast.ms, slow.ms
    assert work.four_bit_linear == work.recipe(uniform(work.units, four)).four_bit_linear == "matmul_nbits"
    assert work.ms(head, four) < work.ms(head, Candidate(8, "static")) and work.bytes(head, four) == 7
    del work.store.costs["static 4"]
    assert work.four_bit_linear == "matmul_nbits"  # so that its file is made and timed


def test_for_size_all_that_is_smaller_is_tried(bench: Callable[..., Workbench]) -> None:
    work = bench(SearchOptions(max_size_mb=1.0))
    names = [item.name for item in work.worth_trying(unit_of(work, "hf.lm_head"))]
    assert {"W4A8 frame", "W4 weights alone", "W8 weights alone"} < set(names)


def test_bits_that_are_not_asked_for_are_not_tried(bench: Callable[..., Workbench]) -> None:
    work = bench(SearchOptions(max_size_mb=1.0, bits=[4]))
    assert {item.weight_bits for item in work.worth_trying(unit_of(work, "hf.lm_head"))} == {4}


def test_only_what_was_measured_has_a_price(bench: Callable[..., Workbench]) -> None:
    work = bench()
    work.store.losses["hf.lm_head"] = {"W8A8 frame": 0.5}
    assert list(work.prices()["hf.lm_head"]) == ["float", "W8A8 frame"]
    assert work.choice_of({"hf.lm_head": "W8A8 frame"}) == {"hf.lm_head": Candidate(8, "frame")}


def test_layers_that_read_a_few_large_channels_may_have_them_evened_out(
    tmp_path: Path, tiny_data: SpeechDataModule
) -> None:
    """The float model stays the same function: what differs is what quantization loses, far less with than without."""
    place = "hf.wav2vec2.encoder.layers.0.attention"
    module = decided("wav2vec2")
    pair = next(p for p in module.scale_pairs() if p.consumers == (f"{place}.out_proj",))
    scale = torch.ones(16)
    scale[3] = 1e-3
    scale_pair_(module, pair, scale)
    store = Store(tmp_path / "search.json", {})
    work = Workbench(module, tiny_data, SearchOptions(), store, tmp_path)
    offered = {unit.name for unit in work.units if any(item.equalize for item in unit.candidates)}
    assert offered == {f"{place}.out_proj"}
    losses = []
    for candidate in (Candidate(8, "static"), Candidate(8, "static", equalize=True)):
        choice = {**uniform(work.units, FLOAT), f"{place}.out_proj": candidate}
        quantized = work.quantized(choice)
        assert bool(quantized.equalized) == candidate.equalize
        losses.append(loss_of(quantized, work.reference))
    assert losses[1] < losses[0] / 10
    recipe = Recipe.from_dict(work.recipe(choice).to_dict())
    assert recipe.equalize_of(f"{place}.out_proj", {}) == "smooth" and recipe.equalizes


def test_channels_are_evened_out_in_the_folded_model(tmp_path: Path, tiny_data: SpeechDataModule) -> None:
    """A BatchNorm between two layers is part of the first of them when they are quantized."""
    module = decided("crdnn")
    plant_outliers_(module, channels=1, factor=1000)
    work = Workbench(module, tiny_data, SearchOptions(), Store(tmp_path / "search.json", {}), tmp_path)
    evened = Candidate(8, "static", equalize=True)
    offered = [unit.name for unit in work.units if evened in unit.candidates]
    assert {"head", "crdnn.DNN.block_1.linear.w"} <= set(offered)
    choice = {**uniform(work.units, FLOAT), **dict.fromkeys(offered, evened)}
    quantized = work.quantized(choice)
    assert len([item for item in quantized.equalized if "channels" in item]) >= len(offered)
    assert loss_of(quantized, work.reference) < loss_of(
        work.quantized({**choice, **dict.fromkeys(offered, Candidate(8, "static"))}), work.reference
    )


def test_evened_out_channels_are_tried_beside_others_of_the_same_price(
    bench: Callable[..., Workbench],
) -> None:
    work = bench()
    head = unit_of(work, "hf.lm_head")
    plain = work.worth_trying(head)
    every = Unit(head.name, head.layers, tuple(all_candidates([8, 4])))
    assert {item.name for item in work.worth_trying(every)} == {item.name for item in plain} | {
        f"{item.name} equalized" for item in plain if item.activations != "float"
    }
