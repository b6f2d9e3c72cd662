"""The path of a GPU, on CPU tensors: Triton's interpreter runs the kernels, and training is that of the plain path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.batch import Batch
from qat.layers.activation import ActivationQuantizer
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.models.ctc import CTCModule
from qat.numerics import fused, fused_weights
from qat.numerics import launch as launching
from qat.recipe import Recipe
from qat.rule import Rule
from tests.conftest import build, noise

pytest.importorskip("triton")
RECIPES: dict[str, dict[str, Any]] = {
    "stochastic": {"weight_observer": "max", "rounding": "stochastic"},
    "learned": {"learn_scale": True, "weight_bits": 4, "four_bit_linear": "matmul_nbits"},
    "quant_noise": {
        "weight_observer": "max",
        "quant_noise": 0.5,
        "weight_bits": 4,
        "four_bit_linear": "matmul_nbits",
    },
}


def batch() -> Batch:
    lengths = torch.tensor([6_400, 5_000])
    return Batch(signal=noise(2, 0.4), lengths=lengths, texts=["one", "two"], ids=["a", "b"])


def ready(kind: str, fields: dict[str, Any]) -> CTCModule:
    """A calibrated model in training."""
    rules = [Rule(match="feature_extractor", activation_granularity="frame")] if "frame" in fields else []
    fields = {key: value for key, value in fields.items() if key != "frame"}
    smaller = {"rnn_layers": 1, "rnn_neurons": 4} if kind == "crdnn" else {}
    model = build(kind, Recipe(preset="test", reduce_range=False, rules=rules, **fields), **smaller)
    if model.recipe.fold_batch_norm:
        model.fold_batch_norm()
    model.eval()
    set_observing_(model, True)
    with torch.no_grad():
        model(batch().signal, batch().lengths)
    set_observing_(model, False)
    calibrate_weights_(model)
    finish_calibration_(model)
    model.quantize()
    return model.train()


def two_steps(kind: str, fields: dict[str, Any]) -> tuple[list[float], dict[str, Tensor], Tensor]:
    """Losses of two steps of training, the state after them, and logits of an evaluation."""
    model = ready(kind, fields)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(2):
        model.step_key.step = step
        torch.manual_seed(step)
        loss = model.transcript_loss(batch())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    logits = model.eval()(batch().signal, batch().lengths)[0]  # with gradients: the training arithmetic
    return losses, {key: value.clone() for key, value in model.state_dict().items()}, logits.detach()


@pytest.mark.parametrize(
    "kind, name",
    [
        ("crdnn", "stochastic"),
        ("crdnn", "learned"),
        ("crdnn", "quant_noise"),
        ("wav2vec2", "stochastic"),
        ("wav2vec2", "frame"),
    ],
)
def test_two_steps_through_the_kernels_are_those_of_the_plain_path(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"weight_observer": "max", "frame": True} if name == "frame" else RECIPES[name]
    plain = two_steps(kind, fields)
    monkeypatch.setattr(fused, "ROWS", 256)  # the interpreter takes its time for each program
    monkeypatch.setattr(fused, "FORCED", True)
    launched = count_launches(monkeypatch)
    fast = two_steps(kind, fields)
    assert len(launched) > 20
    if name == "learned":  # the gradients of scales are sums in another order
        assert fast[0] == pytest.approx(plain[0], rel=1e-5)
        return
    assert fast[0] == plain[0]
    for key, value in plain[1].items():
        assert torch.equal(fast[1][key], value), key
    assert torch.equal(fast[2], plain[2])


def count_launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels launched from now on."""
    launched: list[str] = []
    plain = launching.launch

    def launch(kernel: Any, *args: Any, **constants: Any) -> None:
        launched.append(kernel.fn.__name__ if hasattr(kernel, "fn") else kernel.__name__)
        plain(kernel, *args, **constants)

    monkeypatch.setattr(fused, "launch", launch)
    monkeypatch.setattr(fused_weights, "launch", launch)
    return launched


def test_a_quantizer_is_one_launch_forward_and_one_backward_and_the_weights_are_one_in_all(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "FORCED", True)
    model = ready(kind, RECIPES["stochastic"])
    model.transcript_loss(batch()).backward()  # each weight is met for the first time
    launched = count_launches(monkeypatch)
    model.step_key.step = 1
    model.transcript_loss(batch()).backward()
    found = {name: launched.count(name) for name in set(launched)}
    activations = sum(isinstance(item, ActivationQuantizer) for item in model.modules())
    if kind == "crdnn":  # the LSTM quantizes its input itself, by a range that covers it: nothing backward
        assert found == {
            "weights_forward": 1,
            "values_forward": activations + 1,
            "values_backward": activations - 1,  # the features need no gradient
        }
    else:
        assert found == {
            "weights_forward": 1,
            "values_forward": activations,
            "values_backward": activations - 1,
        }


def test_accumulating_gradients_quantizes_the_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "FORCED", True)
    model = ready("crdnn", RECIPES["stochastic"])
    model.transcript_loss(batch())
    model.step_key.step = 1
    launched = count_launches(monkeypatch)
    for _ in range(3):
        model.transcript_loss(batch()).backward()
    assert launched.count("weights_forward") == 1
