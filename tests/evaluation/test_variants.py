"""A model without its language model, and with it in float."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qat.evaluation.candidates import candidates_of
from qat.evaluation.variants import KEPT, variants_of
from qat.layers.swap import quant_layers
from qat.models.attention import AttentionModule
from qat.models.loading import save_module
from qat.recipe import Recipe
from tests.conftest import build
from tests.models.attention_models import attention_model, batch_of
from tests.runtime.conftest import calibrate_


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AttentionModule:
    """Tiny and calibrated."""
    model = attention_model(tmp_path_factory.mktemp("attention"), Recipe(preset="test", reduce_range=True))
    calibrate_(model, lambda: model.posteriors(batch_of(1)))
    return model


@torch.no_grad()
def test_variants_change_the_language_model_and_nothing_else(model: AttentionModule) -> None:
    without, in_float = variants_of(model).values()
    assert isinstance(without, AttentionModule) and isinstance(in_float, AttentionModule)
    assert without.lm is None and model.lm is not None
    batch = batch_of(1)
    for variant in (without, in_float):
        assert torch.equal(variant(batch.signal, batch.lengths)[0], model(batch.signal, batch.lengths)[0])
    quantized = [name for name, _ in quant_layers(model)]
    assert [name for name, _ in quant_layers(in_float)] == [
        name for name in quantized if not name.startswith("lm.")
    ]
    assert {why for name, why in in_float.swap_report.skipped if name.startswith("lm.")} == {KEPT}
    assert (without.options.lm, in_float.options.lm, model.options.lm) == ("none", "float", "quantize")
    assert any(name.startswith("lm.") for name in quantized), "the model itself keeps its own"


def test_a_model_without_a_language_model_has_no_variants(tmp_path: Path) -> None:
    assert variants_of(build("crdnn")) == {}
    assert variants_of(attention_model(tmp_path, lm="none")) == {}


def test_a_float_language_model_cannot_be_more_so(tmp_path: Path) -> None:
    assert list(variants_of(attention_model(tmp_path))) == [("no_lm", "no language model")]


def test_variants_stand_before_the_run_and_after_the_float_model(
    model: AttentionModule, tmp_path: Path
) -> None:
    save_module(model, tmp_path / "model.ckpt")
    found = candidates_of(tmp_path / "model.ckpt", {}, with_variants=True)
    assert [item.name for item in found] == ["float", "model_no_lm", "model_float_lm", "model"]
    assert [item.is_variant for item in found] == [False, True, True, False]
    assert found[1].method == "test, no language model"
    for decoding in ({"lm_weight": 0.0}, {"method": "ctc_greedy"}):
        config = {"decoding": decoding}
        assert len(candidates_of(tmp_path / "model.ckpt", config, with_variants=True)) == 2
    save_module(attention_model(tmp_path), tmp_path / "float.ckpt")
    alone = candidates_of(tmp_path / "float.ckpt", {}, with_variants=True)
    assert [item.name for item in alone] == ["float", "float_no_lm"]
