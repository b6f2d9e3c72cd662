"""From models to measurements, with the guards in between."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.base import SpeechDataModule
from qat.evaluation import measure as measuring
from qat.evaluation.exported import ExportedModel
from qat.evaluation.guards import GuardError
from qat.evaluation.measure import bits_of, check_measurements, length_mix, measure, timing_of
from qat.evaluation.measurement import Nodes
from qat.evaluation.options import EvaluationOptions
from qat.evaluation.transcripts import read_splits
from qat.recipe import Recipe
from qat.rule import Rule
from tests.conftest import build
from tests.evaluation.measurements import float_measurement, integer_measurement

PAIR = {
    **{"engine": "onnxruntime", "provider": "CPUExecutionProvider", "device": "cpu", "speedup": 2.0},
    "float": {"latency_ms": {"p50": 2.0, "p95": 3.0}, "rtf": 0.2, "peak_memory_mb": 9.0},
    "integer": {"latency_ms": {"p50": 1.0, "p95": 2.0}, "rtf": 0.1, "peak_memory_mb": 8.0},
}


@pytest.fixture
def ready(models: list[ExportedModel], monkeypatch: pytest.MonkeyPatch) -> list[ExportedModel]:
    """Models and their files are there; the timer always says the same."""
    by_name = {model.candidate.name: model for model in models}
    monkeypatch.setattr(measuring, "candidates_of", lambda *arguments: [model.candidate for model in models])
    monkeypatch.setattr(measuring, "export_candidate", lambda candidate, *rest: by_name[candidate.name])
    monkeypatch.setattr(measuring, "measure_latency", lambda *files, **options: PAIR)
    return models


def test_a_measurement_is_plain_data(
    ready: list[ExportedModel], data: SpeechDataModule, tmp_path: Path
) -> None:
    float_one, own = measure(tmp_path / "model.ckpt", tmp_path, data, {}, EvaluationOptions())
    json.dumps([asdict(float_one), asdict(own)])
    assert (float_one.name, float_one.precision, own.name, own.precision) == (
        *("float", "float"),
        *("model", "integer"),
    )
    assert list(own.utterances) == list(own.parity) == ["test_a", "test_b"] and not float_one.parity
    assert [len(item) for item in own.utterances.values()] == [4, 4]
    assert (float_one.weight_bits, own.weight_bits, own.activation_bits) == (None, 8, 8)
    assert own.nodes.integer and not float_one.nodes.integer and float_one.nodes.float_weights
    assert own.coverage is not None and own.coverage["weights"] == 1.0 and float_one.coverage is None
    assert float_one.timing == timing_of(PAIR, "float") and own.timing == timing_of(PAIR, "integer")
    assert own.timing is not None and own.timing.float_latency_ms == PAIR["float"]["latency_ms"]
    assert own.sqnr_db and not float_one.sqnr_db


def test_logits_of_the_float_file_fail_the_run(
    ready: list[ExportedModel], data: SpeechDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = {"float": ready[0], "model": replace(ready[1], recogniser=ready[0].recogniser)}
    monkeypatch.setattr(measuring, "export_candidate", lambda candidate, *rest: fault[candidate.name])
    with pytest.raises(GuardError, match=r"integer.onnx: quantized logits equal the float ones"):
        measure(tmp_path / "model.ckpt", tmp_path, data, {}, EvaluationOptions())


def test_calibration_on_test_data_fails_the_run(
    ready: list[ExportedModel],
    data: SpeechDataModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, "calibration_utterances", lambda count, seed: data.utterances("test_b")[:1])
    with pytest.raises(GuardError, match="test_b: calibration saw 1 of its utterances"):
        measure(tmp_path / "model.ckpt", tmp_path, data, {}, EvaluationOptions())


def test_planted_fault_a_layer_left_in_float_unsaid_fails_the_run() -> None:
    """What the guard is handed is node and weight: the whole sentence is right."""
    nodes = Nodes(
        {"rnn/LSTM": "DynamicQuantizeLSTM"}, {"head/MatMul": "MatMul"}, {"head/MatMul": "head.weight"}
    )
    fault = integer_measurement(nodes=nodes)
    with pytest.raises(GuardError) as caught:
        check_measurements([float_measurement(), fault])
    assert str(caught.value) == (
        "model.onnx: node 'head/MatMul' computes in float with weight 'head.weight', which the recipe does not exclude"
    )
    said = {**(fault.coverage or {}), "skipped": [["head", "excluded by the recipe"]]}
    check_measurements([float_measurement(), replace(fault, coverage=said)])


def test_recipes_without_effect_fail_the_run() -> None:
    twin = integer_measurement(name="ptq", recipe={"preset": "ptq", "weight_bits": 4, "rounding": "nearest"})
    with pytest.raises(
        GuardError, match=r"ptq.onnx and model.onnx hold the same weights although `weight_bits`"
    ):
        check_measurements([float_measurement(), twin, integer_measurement()])


def test_a_float_model_alone_is_timed_against_itself(
    models: list[ExportedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def measure_latency(*arguments: Any, **options: Any) -> dict[str, Any]:
        timed.append(arguments[:2])
        return PAIR

    monkeypatch.setattr(measuring, "measure_latency", measure_latency)
    timings = measuring.time_models(models[:1], [], EvaluationOptions())
    assert timed == [(models[0].file, models[0].file)]
    assert timings == [timing_of(PAIR, "float")] and timings[0].speedup is None


def test_bits_of_groups_stand_side_by_side() -> None:
    mixed = build("crdnn", Recipe(preset="x", rules=[Rule("cnn", weight_bits=4)]))
    assert bits_of(mixed, "weight_bits") == "4/8" and bits_of(mixed, "activation_bits") == 8
    assert bits_of(build("crdnn"), "weight_bits") is None


def test_the_mix_of_lengths_spans_all_durations(data: SpeechDataModule) -> None:
    splits = read_splits(data)
    every = sorted(item.duration_s for split in splits for item in split.utterances)
    mix = [item.duration_s for item in length_mix(splits, 4)]
    assert mix == [every[1], every[3], every[5], every[7]]
    assert len(length_mix(splits, 20)) == 20
