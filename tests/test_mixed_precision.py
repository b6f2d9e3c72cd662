"""Groups really differ in bits: the published tables' mistakes, planted here, are caught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from qat.evaluation.guards import GuardError, IntegerFile, check_recipes_take_effect, initializers_sha256
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_, set_observing_
from qat.layers.swap import quant_layers
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from qat.report.row import load_report
from qat.rule import Rule
from qat.runtime.export import export_onnx
from tests.conftest import build, noise
from train import train

GROUPS = {"crdnn": ["cnn", "rnn", "dnn"], "wav2vec2": ["feature_extractor", "transformer", "head"]}
SMALLEST: dict[str, Any] = {"cnn_channels": [4], "cnn_pooling": [2], "rnn_layers": 1, "dnn_blocks": 1}
CASES = [(kind, group) for kind, groups in GROUPS.items() for group in groups]


def calibrated(kind: str, recipe: Recipe, **arguments: Any) -> CTCModule:
    module = build(kind, recipe, **arguments).eval()
    set_observing_(module, True)
    with torch.no_grad():
        module(noise(1, 2.0), torch.tensor([32_000]))
    set_observing_(module, False)
    calibrate_weights_(module)
    finish_calibration_(module)
    set_enabled_(module, True)
    return module


@torch.no_grad()
def largest_levels(module: CTCModule) -> dict[str, float]:
    """Largest weight level of each layer: 3 at 3 bits, 7 at 4 bits."""
    return {
        name: max(float(quantizer.levels(weight)[0].abs().max()) for _, weight, quantizer in layer.weights())
        for name, layer in quant_layers(module)
    }


@pytest.mark.parametrize(("kind", "group"), CASES)
@pytest.mark.parametrize("bits", [2, 4])
def test_a_groups_bits_reach_its_layers_and_no_others(kind: str, group: str, bits: int) -> None:
    module = calibrated(kind, Recipe(preset="x", rules=[Rule(group, weight_bits=bits)]))
    inside = Rule(group)
    found = largest_levels(module)
    members = {name for name in found if inside.matches(name, module.groups)}
    assert members and members != set(found)
    most = 2**bits - 1 if bits < 4 else 2 ** (bits - 1) - 1  # of 2 bits in half steps: -3, -1, 1, 3
    assert all(found[name] <= most for name in members)
    assert all(found[name] > 7 for name in set(found) - members)


@pytest.mark.parametrize(("kind", "group"), CASES)
def test_a_groups_activation_bits_reach_its_inputs(kind: str, group: str) -> None:
    module = calibrated(kind, Recipe(preset="x", rules=[Rule(group, activation_bits=4)]))
    inside = Rule(group)
    for name, layer in quant_layers(module):
        quantizer: Any = layer.input_quantizer
        if inside.matches(name, module.groups):
            assert quantizer.quant_max == 15, name
        elif hasattr(quantizer, "quant_max"):
            assert quantizer.quant_max == 255, name


def test_activation_and_weight_bits_are_apart() -> None:
    """A4W8 and A8W4 are different models (the published rows swapped and rounded one model)."""
    rows = {
        name: calibrated("wav2vec2", Recipe(preset="x", weight_bits=weight, activation_bits=activation))
        for name, weight, activation in (("a4w8", 8, 4), ("a8w4", 4, 8))
    }
    assert max(largest_levels(rows["a8w4"]).values()) == 7 < min(largest_levels(rows["a4w8"]).values())
    signal, lengths = noise(1, 1.0, 3), torch.tensor([16_000])
    with torch.no_grad():
        assert not torch.equal(rows["a4w8"](signal, lengths)[0], rows["a8w4"](signal, lengths)[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav2vec2"])
def test_ranges_by_frame_are_trained_exported_and_counted(tiny: Path, tmp_path: Path) -> None:
    rules = "[{match: feature_extractor, activation_granularity: frame}]"
    run = tmp_path / "run"
    args = ["--config", str(tiny), "--run", str(run), "--wandb.enabled", "false", "--qat", "low_bit"]
    args += ["--evaluation.twin", "false", "--evaluation.repeats", "1"]
    train([*args, "--qat.weight_bits", "4", "--qat.rounding", "stochastic", "--qat.rules", rules])
    row = next(row for row in load_report(run / "report.json") if row.method == "low_bit")
    assert row.coverage and row.coverage.weights == 1.0 and not row.coverage.skipped
    assert row.parity and row.parity.max_abs_logit is not None and row.parity.max_abs_logit < 0.05
    nodes = [node.op_type for node in onnx.load(run / "model.onnx").graph.node]
    model: Any = build("wav2vec2", Recipe())
    convs = len(model.hf.wav2vec2.feature_extractor.conv_layers)
    assert nodes.count("MatMulIntegerToFloat") >= convs
    assert nodes.count("QLinearConv") == 1 and "Conv" not in nodes  # the positional convolution


def test_planted_fault_rules_that_do_nothing_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the published table 3, where "all 4" and "8 CNN 4 DNN" were one model: same weights, other recipe."""
    four = Recipe(preset="x", rules=[Rule("cnn", weight_bits=4)])
    eight = Recipe(preset="x", rules=[Rule("dnn", weight_bits=4)])
    original, plain = Recipe.for_layer, Recipe(preset="x")
    for fault in (False, True):
        if fault:
            monkeypatch.setattr(Recipe, "for_layer", lambda self, name, groups: original(plain, name, groups))
        measured = []
        for index, recipe in enumerate((four, eight)):
            path = tmp_path / f"{fault}-{index}.onnx"
            module = calibrated("crdnn", recipe, **SMALLEST)
            export_onnx(module, path, "integer")
            measured.append(IntegerFile(path.name, "CRDNN", initializers_sha256(path), recipe.to_dict()))
        if fault:
            with pytest.raises(GuardError, match="hold the same weights although `rules`"):
                check_recipes_take_effect(measured)
        else:
            check_recipes_take_effect(measured)
