"""A tiny attention model, calibrated, and both of its exported folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qat.models.attention import AttentionModule
from qat.recipe import Recipe
from qat.runtime.attention_export import export
from qat.runtime.export import ExportInfo
from tests.models.attention_models import attention_model, batch_of
from tests.runtime.conftest import SAFE, calibrate_


@dataclass
class ExportedAttention:
    """A quantized model and its folders.

    Attributes:
        module: on levels, as the integer folder computes.
        integer: of it.
        float: of the same layers unquantized.
    """

    module: AttentionModule
    integer: ExportInfo
    float: ExportInfo


def calibrated_attention(folder: Path) -> AttentionModule:
    """The quantized model, with ranges of noise."""
    module = attention_model(folder, Recipe(preset="test", **SAFE), lm_layers=2)
    calibrate_(module, lambda: module.posteriors(batch_of(1)))
    return module


def export_attention(folder: Path) -> ExportedAttention:
    """The model with both folders below `folder`."""
    module = calibrated_attention(folder)
    return ExportedAttention(
        module, export(module, folder / "integer", "integer"), export(module, folder / "float", "float")
    )
