"""A whole search on a tiny model: files, budget, proof, and a second one that measures nothing anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.build import build_data
from qat.models.loading import load_module, save_module
from qat.recipe import Recipe
from qat.search import cost, measure, search
from qat.search.cost import Costs
from qat.search.options import SearchOptions
from qat.system.errors import UserError
from tests.conftest import build
from tests.models.attention_models import attention_model
from tests.search.conftest import decided

OPTIONS = SearchOptions(bits=[8], utterances=2, calibration_utterances=4)


@pytest.fixture
def config(tiny_manifests: dict[str, Path]) -> dict[str, object]:
    paths = {key: str(tiny_manifests[key]) for key in ("train", "dev")}
    arguments = {**paths, "test": str(tiny_manifests["test_a"]), "max_batch_s": 6.0}
    return {"data": {"class_path": "datamodules.ManifestDataModule", "init_args": arguments}}


def profile_twice_as_fast(paths: dict[str, Path], *args: Any) -> dict[str, Costs]:
    """The profiler's answer, but every integer layer takes half of float's time: a tiny model's times are chance."""
    found = cost.profile(paths, *args)
    halves = {layer: ms / 2 for layer, ms in found["float"].ms.items()}
    return {name: found[name] if name == "float" else Costs(dict(halves)) for name in paths}


@pytest.mark.slow
def test_a_search_writes_a_recipe_and_a_second_one_reads_its_measurements(
    tmp_path: Path, config: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "profile", profile_twice_as_fast)
    save_module(decided("wav2vec2"), tmp_path / "float.ckpt")
    options = SearchOptions(**{**vars(OPTIONS), "max_loss": 10.0})
    path = search.search(tmp_path / "float.ckpt", tmp_path / "out", build_data(config), config, options)
    recipe = Recipe.from_dict(yaml.safe_load(path.read_text()))
    assert recipe.preset == "searched" and len(recipe.rules) > 10 and recipe.calibration_utterances == 4
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    result = found["result"]
    assert result["loss"] <= 10.0
    assert result["dev"]["difference"]["p_value"] >= 0.05
    assert result["latency"]["speedup"] > 0
    assert abs(result["bytes_expected"] / 1e6 - result["size_mb"]) < 0.2  # nodes are the rest
    assert (tmp_path / "out" / "pareto.png").is_file()

    monkeypatch.setattr(measure, "loss_of", None)  # whoever calls it fails
    monkeypatch.setattr(measure, "export", None)
    search.search(tmp_path / "float.ckpt", tmp_path / "out", build_data(config), config, options)
    again = json.loads((tmp_path / "out" / "search.json").read_text())
    assert again["losses"] == found["losses"] and again["costs"] == found["costs"]
    assert again["result"]["choice"] == result["choice"]


def test_a_quantized_run_is_searched_from_its_float_start(tmp_path: Path) -> None:
    save_module(build("wav2vec2"), tmp_path / "float.ckpt")
    save_module(build("wav2vec2", Recipe(preset="x")), tmp_path / "model.ckpt")
    config = {"model": {"init_args": {"init_from": str(tmp_path / "float.ckpt")}}}
    module, source = search.float_of(tmp_path / "model.ckpt", config)
    assert source == tmp_path / "float.ckpt" and not module.recipe.active
    with pytest.raises(UserError, match="must be a float model, or a run whose float start"):
        search.float_of(tmp_path / "model.ckpt", {})


@pytest.mark.slow
def test_an_attention_model_is_searched(
    tmp_path: Path, config: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "profile", profile_twice_as_fast)
    save_module(attention_model(tmp_path), tmp_path / "float.ckpt")
    options = SearchOptions(**{**vars(OPTIONS), "max_loss": 10.0})
    path = search.search(tmp_path / "float.ckpt", tmp_path / "out", build_data(config), config, options)
    recipe = Recipe.from_dict(yaml.safe_load(path.read_text()))
    bits = {rule.match: rule.weight_bits for rule in recipe.rules if rule.quantize is not False}
    assert 8 in bits.values() and "decoder.attn.mlp_attn" not in bits
    result = json.loads((tmp_path / "out" / "search.json").read_text())["result"]
    assert result["latency"]["speedup"] > 0 and result["loss"] > 0
    assert load_module(tmp_path / "float.ckpt").recipe != recipe
