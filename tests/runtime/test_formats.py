"""Formats of files are known by name."""

from __future__ import annotations

from typing import Any

import pytest

from qat.layer_recipe import LayerFields
from qat.runtime.formats import DEFAULT_RUNNER, ExportOptions, Runner, check_target
from qat.system.errors import UserError


def test_a_configuration_names_the_format() -> None:
    assert ExportOptions.of({}).format == ExportOptions.of({"export": None}).format == "onnxruntime"
    assert ExportOptions.of({"export": {"format": "qdq"}}).format == "qdq"


def test_another_format_is_one_line() -> None:
    name: Any = "tflite"
    with pytest.raises(UserError, match="export.format: 'tflite', must be onnxruntime or qdq"):
        ExportOptions(name)


def test_an_engine_is_refused_for_files_that_it_cannot_read() -> None:
    assert ExportOptions().format_for(DEFAULT_RUNNER) == "onnxruntime"
    assert ExportOptions("qdq").format_for(Runner("openvino")) == "qdq"
    with pytest.raises(UserError, match="engine openvino .* must go with format qdq"):
        ExportOptions().format_for(Runner("openvino"))
    with pytest.raises(UserError, match="provider cuda .* must go with format qdq"):
        ExportOptions().format_for(Runner(provider="cuda"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("tvm", "cpu"), "evaluation.engine: 'tvm', must be onnxruntime or openvino"),
        (("onnxruntime", "rocm"), "evaluation.provider: 'rocm', must be cpu or cuda or tensorrt"),
        (("openvino", "cuda"), "evaluation.provider: 'cuda', must be cpu for engine openvino"),
    ],
)
def test_a_runner_that_is_none_is_one_line(names: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Runner(*names)


def test_a_model_for_another_runtime_has_a_portable_file() -> None:
    check_target(LayerFields(), "onnxruntime")
    check_target(LayerFields(target="tensorrt"), "qdq")
    with pytest.raises(
        UserError, match="export.format: 'onnxruntime', must be qdq for a model of qat.target openvino"
    ):
        check_target(LayerFields(target="openvino"), "onnxruntime")


def test_a_portable_file_has_no_integer_attention() -> None:
    check_target(LayerFields(attention_bits=8), "onnxruntime")
    with pytest.raises(UserError, match="must be onnxruntime for a model of qat.attention_bits 8"):
        check_target(LayerFields(attention_bits=8), "qdq")
