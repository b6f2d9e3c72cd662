"""Formats of files are known by name."""

from __future__ import annotations

from typing import Any

import pytest

from qat.runtime.formats import ExportOptions, check_target
from qat.system.errors import UserError


def test_a_configuration_names_the_format() -> None:
    assert ExportOptions.of({}).format == ExportOptions.of({"export": None}).format == "onnxruntime"
    assert ExportOptions.of({"export": {"format": "qdq"}}).format == "qdq"


def test_another_format_is_one_line() -> None:
    name: Any = "tflite"
    with pytest.raises(UserError, match="export.format: 'tflite', must be onnxruntime or qdq"):
        ExportOptions(name)


def test_an_engine_is_refused_for_files_that_it_cannot_read() -> None:
    assert ExportOptions().format_for("onnxruntime") == "onnxruntime"
    assert ExportOptions("qdq").format_for("openvino") == "qdq"
    with pytest.raises(UserError, match="evaluation.engine: 'openvino' .* must go with format qdq"):
        ExportOptions().format_for("openvino")


def test_a_model_for_another_runtime_has_a_portable_file() -> None:
    check_target("onnxruntime", "onnxruntime")
    check_target("tensorrt", "qdq")
    with pytest.raises(
        UserError, match="export.format: 'onnxruntime', must be qdq for a model of qat.target openvino"
    ):
        check_target("openvino", "onnxruntime")
