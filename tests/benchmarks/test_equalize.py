"""Outliers planted in a model."""

from __future__ import annotations

import torch

from benchmarks.equalize import compared, plant_outliers_, recipe_of
from benchmarks.publish import equalize_rows
from qat.evaluation.error_rates import count_utterances
from qat.layers.equalize import output_range
from tests.conftest import build, noise
from tests.models.attention_models import batch_of


@torch.no_grad()
def test_planting_makes_a_few_channels_larger_and_changes_the_float_output_by_rounding_alone(
    kind: str,
) -> None:
    model = build(kind).eval()
    batch, place = batch_of(1), "head" if kind == "crdnn" else "hf.lm_head"
    before, weight = model.posteriors(batch)[0], model.get_parameter(f"{place}.weight").clone()
    planted = plant_outliers_(model, channels=2, factor=100)
    # 100 is no power of two: each product is rounded once more
    torch.testing.assert_close(model.posteriors(batch)[0], before, atol=1e-5, rtol=0)
    assert planted[-1].endswith(f"-> {place}")
    shrunk = (weight / model.get_parameter(f"{place}.weight")).mean(0)
    assert sorted(shrunk.round().tolist())[-3:] == [1.0, 100.0, 100.0]
    producer = model.get_submodule(planted[-1].partition(" -> ")[0])
    assert len(output_range(producer)) == len(shrunk)


def test_the_difference_is_to_the_first_file_on_the_same_utterances() -> None:
    ids, seconds = ["a", "b", "c"], [1.0, 1.0, 1.0]
    one = count_utterances(ids, ["x y", "z", "w"], ["x y", "z", "w"], seconds)
    two = count_utterances(ids, ["x y", "z", "w"], ["x q", "z", ""], seconds)
    found = compared(two, one)
    assert (found["same_words"], found["wer"], found["delta"]) == (1, 50.0, 50.0)
    row = {"model": "mini crdnn", "weights": "planted", "method": "ptq_max", "equalize": "smooth", **found}
    published = next(equalize_rows([row]))
    assert published["dev WER %"] == "50.00" and published["difference to float"].startswith("+50.00 [")


def test_every_recipe_of_the_benchmark_is_one() -> None:
    for kind in ("crdnn", "wav2vec2"):
        recipe = recipe_of(kind, "ptq_percentile", "smooth")
        build(kind, recipe)(noise(1, 0.5), torch.tensor([8_000]))
        assert recipe.equalize == "smooth" and not recipe.fine_tune
