"""AdaRound of a whole model: which moments, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qat.layers.swap import quant_layers, swap_
from qat.methods.ada_round import Reconstruction
from qat.methods.reconstruction import LinearMap, Moments, linear_maps
from tests.callbacks.test_ada_round import adaround, fit
from tests.layers.hosts import calibrated, host, recipe
from tests.pretend_gpu import PretendGPU


def test_the_mean_error_counts_where_no_bias_can_take_it_out(kind: str, tiny: Path, tmp_path: Path) -> None:
    """The convolutions of a Wav2Vec2 have no bias: their rounding is chosen on plain, not on centred moments."""
    seen: dict[str, bool] = {}
    original = LinearMap.problem

    def spy(self: LinearMap, moments: Moments, centred: bool) -> Any:
        seen[self.name] = centred
        return original(self, moments, centred)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinearMap, "problem", spy)
        model = fit(adaround(tiny, tmp_path / "run"))
    corrected = {item["layer"]: item["bias_corrected"] for item in model.reconstruction}
    assert seen == corrected and False in seen.values()  # the last layer, and those without bias


def test_a_layer_too_wide_for_memory_is_named_and_left_to_nearest(
    kind: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("qat.methods.ada_round.MAX_BYTES", {"crdnn": 20_000, "wav2vec2": 30_000}[kind])
    with caplog.at_level("INFO"):
        model = fit(adaround(tiny, tmp_path / "run"))
    left = {line.split()[2].rstrip(",") for line in caplog.messages if line.startswith("not reconstructed: ")}
    assert left and model.reconstruction
    assert not left & {item["layer"] for item in model.reconstruction}
    for name, layer in quant_layers(model):
        for _, _, quantizer in () if ".rnn" in name else layer.weights():
            assert quantizer.ada_rounded is not any(item.startswith(name) for item in left)


def test_adams_state_is_read_onto_the_cpu_and_resumed_where_the_weights_are() -> None:
    model, x = host("linear")
    swap_(model, recipe(3, ada_round=True))
    calibrated(model, x)
    with PretendGPU():
        model.to("cuda")
        item, moments, rows = (
            linear_maps("layer", model.layer)[0],
            Moments(),
            x.flatten(0, -2)[None].to("cuda"),
        )
        moments.add(rows, 0.9 * rows)
        work = Reconstruction()
        zeros = torch.zeros(item.weight.shape)
        work.inside = {"layer": "layer", "step": 1, "first": zeros, "second": zeros}
        assert work.round_(item, moments, 3, centred=True) == 3
    assert model.layer.weight_quantizer.ada_rounded
