from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from qat.layers.swap import quantizers
from qat.models.optimizer import adamw, parameter_groups, warmup_cosine
from qat.recipe import Recipe
from tests.conftest import build
from tests.pretend_gpu import PretendGPU


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


def stepped(optimizer: AdamW, parameters: list[nn.Parameter]) -> AdamW:
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_steps_are_fused_on_a_gpu_alone_and_where_they_may_be() -> None:
    parameters = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3))]
    groups = [{"params": parameters, "weight_decay": 0.1}]
    assert adamw(groups, 1e-3, may_fuse=True).param_groups[0]["fused"] is None
    with PretendGPU():
        groups = [{"params": [nn.Parameter(torch.ones(2, device="cuda")), parameters[1]]}]
        assert not adamw(groups, 1e-3, may_fuse=True).param_groups[0]["fused"]
        there = [nn.Parameter(p.detach().to("cuda")) for p in parameters]
        assert adamw([{"params": there}], 1e-3, may_fuse=True).param_groups[0]["fused"]
        assert not adamw([{"params": there}], 1e-3, may_fuse=False).param_groups[0]["fused"]


@pytest.mark.parametrize("there", [True, False])
def test_a_checkpoint_of_fused_steps_is_resumed_without_and_the_other_way_round(there: bool) -> None:
    first, second = ([nn.Parameter(torch.ones(2, 2))] for _ in range(2))
    plain = stepped(adamw([{"params": first}], 1e-3, True), first)
    with PretendGPU():
        other = [nn.Parameter(torch.ones(2, 2, device="cuda"))]
        fused = stepped(adamw([{"params": other}], 1e-3, True), other)
        if there:
            fused.load_state_dict(plain.state_dict())
            assert fused.param_groups[0]["fused"] and fused.state[other[0]]["step"].is_cuda
            stepped(fused, other)
    if not there:
        resumed = adamw([{"params": second}], 1e-3, True)
        resumed.load_state_dict(fused.state_dict())
        assert not resumed.param_groups[0]["fused"]
        assert float(stepped(resumed, second).state[second[0]]["step"]) == 2


@pytest.mark.parametrize(
    ("scaler", "clip", "allowed"), [(None, 1.0, True), ("a scaler", None, True), ("a scaler", 1.0, False)]
)
def test_steps_are_not_fused_where_gradients_are_scaled_and_clipped(
    monkeypatch: pytest.MonkeyPatch, scaler: str | None, clip: float | None, allowed: bool
) -> None:
    asked = []
    plain = adamw
    monkeypatch.setattr("qat.models.base.adamw", lambda *args: asked.append(args[2]) or plain(*args))
    model = build("crdnn")
    plugin = SimpleNamespace(scaler=scaler)
    trainer = SimpleNamespace(precision_plugin=plugin, gradient_clip_val=clip, estimated_stepping_batches=4)
    monkeypatch.setattr(type(model), "trainer", trainer)
    model.configure_optimizers()
    assert asked == [allowed]


def test_schedule_warms_up_and_decays() -> None:
    factors = [warmup_cosine(step, 100, warmup_steps=10, final_ratio=0.1) for step in range(101)]
    assert factors[0] < factors[5] < factors[10] == 1.0
    assert factors[100] == pytest.approx(0.1) and sorted(factors[10:], reverse=True) == factors[10:]
