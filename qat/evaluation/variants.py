"""What a report measures of a model with a language model besides the model itself: less of it, or more in float."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from qat.layers.swap import SwapReport, quant_layers
from qat.models.ctc import CTCModule

LANGUAGE_MODEL = "lm"
KEPT = "the language model stays float in this variant"


def variants_of(module: CTCModule) -> dict[tuple[str, str], CTCModule]:
    """(stem of the files, words for the method) -> the model without its language model, and with it in float.

    Empty for a model without a language model; the second only where the language model is quantized.
    """
    if getattr(module, LANGUAGE_MODEL, None) is None:
        return {}
    found = {("no_lm", "no language model"): without_language_model(module)}
    if quantized_names(module):
        found["float_lm", "language model in float"] = with_float_language_model(module)
    return found


def quantized_names(module: CTCModule) -> list[str]:
    """Dotted names of the quantized layers of the language model."""
    return [name for name, _ in quant_layers(module) if name.startswith(f"{LANGUAGE_MODEL}.")]


def without_language_model(module: CTCModule) -> CTCModule:
    """A copy that is the recogniser alone."""
    return changed(module, {LANGUAGE_MODEL: None}, "none")


def with_float_language_model(module: CTCModule) -> CTCModule:
    """A copy whose language model computes in float, on the weights that its quantized layers hold."""
    twin = changed(module, {}, "float")
    for name in quantized_names(twin):
        parent, _, key = name.rpartition(".")
        layer: Any = twin.get_submodule(name)
        twin.get_submodule(parent)._modules[key] = layer.to_float()
    reasons = [*module.swap_report.skipped, *((name, KEPT) for name in quantized_names(module))]
    swapped = [name for name in module.swap_report.swapped if not name.startswith(f"{LANGUAGE_MODEL}.")]
    twin.swap_report = SwapReport(swapped, reasons)
    return twin.eval()


def changed(module: CTCModule, parts: dict[str, Any], language_model: str) -> CTCModule:
    """A copy with other parts whose options say what became of the language model."""
    twin = copy.deepcopy(module)
    for name, part in parts.items():
        setattr(twin, name, part)
    options: Any = twin.options
    twin.options = replace(options, lm=language_model)
    twin.hparams["lm"] = language_model
    return twin
