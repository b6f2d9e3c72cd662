"""A tiny attention model, calibrated, and both of its exported folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import nn

from qat.models.attention import AttentionModule
from qat.recipe import Recipe
from qat.runtime.attention_export import export
from qat.runtime.export import ExportInfo
from tests.models.attention_models import attention_model, batch_of
from tests.once import made_once
from tests.runtime.conftest import SAFE, calibrate_

LEFT = "left.onnx"


@dataclass
class ExportedAttention:
    """A quantized model and its folders.

    Attributes:
        module: on levels, as the integer folder computes.
        integer: of it.
        float: of the same layers unquantized; written where a folder with `LEFT` was.
        module_stays: whether the exports left the module's parts as they were.
    """

    module: AttentionModule
    integer: ExportInfo
    float: ExportInfo
    module_stays: bool


def calibrated_attention(folder: Path) -> AttentionModule:
    """The quantized model, with ranges of noise."""
    module = attention_model(folder, Recipe(preset="test", **SAFE), lm_layers=2)
    calibrate_(module, lambda: module.posteriors(batch_of(1)))
    return module


def exported_attention(factory: pytest.TempPathFactory) -> ExportedAttention:
    """The model, and both folders, which are exported once for all workers; the float one over an older folder."""
    module = calibrated_attention(factory.mktemp("attention"))

    def make(folder: Path) -> tuple[ExportInfo, ExportInfo, bool]:
        (folder / "float").mkdir()
        (folder / "float" / LEFT).touch()
        before = kinds_of(module)
        infos = export(module, folder / "integer", "integer"), export(module, folder / "float", "float")
        return *infos, before == kinds_of(module)

    return ExportedAttention(module, *made_once(factory, "attention_exports", make))


def kinds_of(module: nn.Module) -> dict[str, type]:
    """Dotted name -> class of each part."""
    return {name: type(child) for name, child in module.named_modules()}
