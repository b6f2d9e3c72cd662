"""Bias correction without AdaRound: kept where it brings the posteriors nearer to the float model's."""

from __future__ import annotations

from collections.abc import Sequence

from qat.methods.float_reference import FloatInputs, divergence
from qat.methods.reconstruction import LinearMap
from qat.models.ctc import CTCModule


def keep_if_nearer_(
    module: CTCModule, maps: Sequence[LinearMap], floats: FloatInputs, before: float
) -> float:
    """Undo the corrections of a site where they take the posteriors further from the float model's.

    Args:
        module: with the corrections.
        maps: of the site, the last entries of the report.
        floats: holds the float model, with the biases that the site began with.
        before: divergence without the corrections.

    Returns:
        The divergence now.
    """
    found = divergence(module, floats)
    if found < before:
        return found
    for item in maps:
        for bias, old in zip(item.biases, item.of(floats.reference).biases, strict=True):
            bias.copy_(old)
    for entry in module.reconstruction[-len(maps) :]:
        entry["after"], entry["bias_corrected"] = entry["before"], False
    return before
