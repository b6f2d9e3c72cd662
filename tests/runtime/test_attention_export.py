"""The exported folder of an attention model beside its module: numbers, tokens, nodes, and how it is written."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from qat.decoding.attention_search import AttentionSearch, Hypothesis
from qat.decoding.options import DecodingOptions, SearchSettings
from qat.models.attention import AttentionModule
from qat.models.attention_steps import ModuleDecoder, ModuleLanguageModel, encode
from qat.recipe import Recipe
from qat.runtime.attention_export import export, export_folder
from qat.runtime.attention_session import AttentionSession, open_session
from qat.runtime.formats import Runner
from qat.runtime.graph import NodeCounts, count_nodes, optimised_graph
from qat.runtime.manifest import read_manifest
from qat.system.errors import UserError
from tests.conftest import build, noise
from tests.models.attention_models import attention_model
from tests.runtime.attention import LEFT, ExportedAttention
from tests.runtime.conftest import output_folder

GRAPHS = ("encoder.onnx", "decoder_step.onnx", "lm_step.onnx")
FLOAT = ("decoder.attn.conv_loc", "decoder.attn.mlp_loc", "decoder.attn.mlp_attn")  # by design


def signal(seconds: float, seed: int) -> Any:
    return noise(1, seconds, seed)[0].numpy()


def module_search(module: AttentionModule, beam: int, samples: Any) -> Hypothesis:
    """What the module's own steps find."""
    settings = DecodingOptions(beam=beam).over(module.settings)
    search = AttentionSearch(settings, ModuleDecoder(module), ModuleLanguageModel(module))
    return search.search(encode(module, samples))


@pytest.fixture(scope="module")
def off(attention: ExportedAttention) -> AttentionModule:
    """The module switched off."""
    twin = copy.deepcopy(attention.module)
    twin.quantize(False)
    return twin


@pytest.fixture(scope="module")
def counts(attention: ExportedAttention) -> dict[str, NodeCounts]:
    """Nodes of each integer graph."""
    return {name: count_nodes(optimised_graph(attention.integer.path / name)) for name in GRAPHS}


def compare_encoders(module: AttentionModule, session: AttentionSession, tolerance: float) -> None:
    for seconds, seed in ((0.5, 1), (1.3, 2)):
        expected, actual = encode(module, signal(seconds, seed)), session.encode(signal(seconds, seed))
        for name in ("states", "keys", "values", "logits"):
            np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), atol=tolerance)


def test_the_float_encoder_is_the_modules(attention: ExportedAttention, off: AttentionModule) -> None:
    compare_encoders(off, AttentionSession(attention.float.path), 1e-5)  # float32 in another order of sums


def test_the_integer_encoder_is_the_modules(attention: ExportedAttention) -> None:
    # An 8-bit rounding may differ by a level on the way; the largest value is about 1.
    compare_encoders(attention.module, AttentionSession(attention.integer.path), 0.02)


def compare_steps(module: AttentionModule, session: AttentionSession, tolerance: float) -> None:
    encoded = encode(module, signal(1.0, 3))
    decoders: Any = ModuleDecoder(module), session.decoder_step
    compare([(step, step.start(encoded)) for step in decoders], tolerance)
    models: Any = ModuleLanguageModel(module), session.lm_step
    compare([(step, step.start()) for step in models], tolerance)


def compare(steps: list[Any], tolerance: float) -> None:
    """Let two implementations go the same way from their first memories; some hypotheses have one parent."""
    random = np.random.default_rng(3)
    for rows in (1, 4, 3, 6):
        chosen, tokens = random.integers(0, len(steps[0][1][0]), rows), random.integers(0, 30, rows)
        found = [(step, step.step(tokens, step.select(memory, chosen))) for step, memory in steps]
        (_, expected), (_, actual) = found
        pairs = [
            *zip(expected[:-1], actual[:-1], strict=True),
            *zip(expected[-1], actual[-1][:-1], strict=True),
        ]
        for one, two in pairs:
            np.testing.assert_allclose(two, one, atol=tolerance)
        steps = [(step, parts[-1]) for step, parts in found]


def test_float_steps_are_the_modules(attention: ExportedAttention, off: AttentionModule) -> None:
    compare_steps(off, AttentionSession(attention.float.path), 1e-5)


def test_integer_steps_are_the_modules(attention: ExportedAttention) -> None:
    # one level where a float gate's last bit decides
    compare_steps(attention.module, AttentionSession(attention.integer.path), 5e-3)


@pytest.mark.parametrize("beam", [1, 8, 80])
def test_the_float_folder_finds_the_modules_tokens(
    attention: ExportedAttention, off: AttentionModule, beam: int
) -> None:
    session = AttentionSession(attention.float.path, decoding=DecodingOptions(beam=beam))
    expected = module_search(off, beam, signal(0.6, 4))
    found = session.decode(session.encode(signal(0.6, 4)))
    assert found.tokens == expected.tokens
    assert found.score == pytest.approx(expected.score, abs=1e-4)


def test_the_integer_folder_finds_the_fake_quantized_modules_tokens(attention: ExportedAttention) -> None:
    session = AttentionSession(attention.integer.path)
    samples = signal(0.6, 5)
    found, expected = session.decode(session.encode(samples)), module_search(attention.module, 8, samples)
    assert found.tokens == expected.tokens
    assert found.score == pytest.approx(expected.score, abs=1e-2)


@pytest.fixture(scope="module")
def portable(attention: ExportedAttention, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The integer folder of standard operators."""
    place = tmp_path_factory.mktemp("portable") / "model"
    return export(attention.module, place, "integer", file_format="qdq").path


def test_a_portable_folder_holds_standard_operators_alone(portable: Path) -> None:
    assert read_manifest(portable).values["format"] == "qdq"
    for name in GRAPHS:
        model = onnx.load(portable / name)
        onnx.checker.check_model(model, full_check=True)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 21)]
        assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("runner", [Runner(), Runner("openvino")], ids=["onnxruntime", "openvino"])
def test_a_portable_folder_steps_as_the_module_on_each_engine(
    attention: ExportedAttention, portable: Path, runner: Runner
) -> None:
    session: Any = open_session(portable, runner=runner)
    # the encoder's LSTM computes in float there
    compare_encoders(attention.module, session, 0.05)
    compare_steps(attention.module, session, 5e-3)
    found, beam = session.decode(session.encode(signal(0.6, 5))), session.settings.beam
    assert found.score == pytest.approx(module_search(attention.module, beam, signal(0.6, 5)).score, abs=0.05)


def test_a_signed_folder_needs_ranges_around_zero(attention: ExportedAttention, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be qdq for a model of qat.target tensorrt"):
        export_folder(of_target(attention, "tensorrt"), tmp_path / "x", "integer")
    with pytest.raises(UserError, match="has unsigned levels, must be of a recipe with target tensorrt"):
        export_folder(of_target(attention, "tensorrt"), tmp_path / "x", "integer", file_format="qdq")
    assert not (tmp_path / "x").exists()


def of_target(attention: ExportedAttention, target: Any) -> AttentionModule:
    """The module, with a recipe that says another target than it was calibrated for."""
    twin = copy.deepcopy(attention.module)
    twin.recipe = replace(twin.recipe, target=target)
    return twin


def test_every_quantized_layer_runs_on_integers_and_only_the_location_path_in_float(
    attention: ExportedAttention, counts: dict[str, NodeCounts]
) -> None:
    integer = [name for found in counts.values() for name in found.integer]
    for layer in attention.module.swap_report.swapped:
        if "mbedding" not in layer:  # looked up, not multiplied
            assert any(name.startswith(layer) for name in integer), layer
    products = [
        name for found in counts.values() for name, kind in found.integer.items() if "Integer" in kind
    ]
    assert len(products) >= 15
    in_float = [name for found in counts.values() for name in found.float_compute]
    assert sorted({name.rpartition("/")[0] for name in in_float}) == sorted(FLOAT)
    # the context is attention times values: there is nothing to quantize in advance
    assert [len(found.float_matmul_without_weights) for found in counts.values()] == [0, 1, 0]


def test_the_manifest_says_everything_and_a_table_of_files(attention: ExportedAttention) -> None:
    folder = attention.integer.path
    found = json.loads((folder / "manifest.json").read_text())
    assert set(found["files"]) == {*GRAPHS, "tokenizer.model"}
    assert output_folder(folder / "x") == sorted([*found["files"], "manifest.json"])
    assert found["search"] == attention.module.settings.to_dict() == SearchSettings().to_dict()
    assert (found["precision"], found["vocabulary_size"], found["has_language_model"]) == (
        "integer",
        30,
        True,
    )
    assert found["recipe"] == attention.module.recipe.to_dict() and found["sample_rate"] == 16_000
    assert "int8" in found["number_format"] and len(found["config_sha256"]) == 64
    size = sum((folder / name).stat().st_size for name in output_folder(folder / "x"))
    assert attention.integer.size_mb == size / 1e6 < attention.float.size_mb


def test_a_folder_takes_the_place_of_the_one_before_it_and_the_module_stays(
    attention: ExportedAttention,
) -> None:
    place = attention.float.path
    assert output_folder(place) == ["float", "integer"] and LEFT not in output_folder(place / "x")
    assert attention.module_stays


def test_what_is_not_ready_leaves_the_folder_alone(tmp_path: Path) -> None:
    module = attention_model(tmp_path, Recipe(preset="test"))
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="not calibrated"):
        export_folder(module, tmp_path / "model", "integer")
    assert not list((tmp_path / "model").iterdir())


def test_a_ctc_model_becomes_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("qat.runtime.attention_export.export_onnx", lambda *args: asked.append(args))
    module = build("crdnn")
    export(module, tmp_path / "model.best", "float")
    export(module, tmp_path / "model", "integer", "abc", "qdq")
    assert [item[1:] for item in asked] == [
        (tmp_path / "model.best.onnx", "float", "", "onnxruntime"),
        (tmp_path / "model.onnx", "integer", "abc", "qdq"),
    ]
    assert all(item[0] is module for item in asked)
    assert torch.is_grad_enabled()
