import pytest

from qat.layers.swap import quantizers
from qat.models.optimizer import parameter_groups, warmup_cosine
from qat.recipe import Recipe
from tests.conftest import build


def test_groups_keep_scales_apart() -> None:
    model = build("crdnn", Recipe(preset="x", learn_scale=True))
    groups = parameter_groups(model, weight_decay=0.1, quantizer_learning_rate=0.2)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0]
    assert groups[2]["lr"] == 0.2
    scales = {id(p) for _, quantizer in quantizers(model) for p in quantizer.parameters()}
    assert scales and {id(p) for p in groups[2]["params"]} == scales
    assert len(parameter_groups(build("crdnn", Recipe(preset="x")), 0.1, 0.2)) == 2


def test_groups_hold_every_trained_parameter_once_and_no_frozen_one() -> None:
    model = build("wav2vec2", freeze_feature_encoder=True)
    held = [p for group in parameter_groups(model, 0.1, 0.2) for p in group["params"]]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(held) == len(trained) < len(list(model.parameters()))
    assert {id(p) for p in held} == {id(p) for p in trained}


def test_schedule_warms_up_and_decays() -> None:
    factors = [warmup_cosine(step, 100, warmup_steps=10, final_ratio=0.1) for step in range(101)]
    assert factors[0] < factors[5] < factors[10] == 1.0
    assert factors[100] == pytest.approx(0.1) and sorted(factors[10:], reverse=True) == factors[10:]
