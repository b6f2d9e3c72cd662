"""What each forward of training leaves ready for compiled code, which may ask no counters and no versions.

Weights are quantized before it, with their gradients: compiled code reads the results as it reads Parameters.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from qat.layers.quantizer import StepKey
from qat.layers.swap import quant_layers
from qat.layers.weight import WeightQuantizer


def weights_of(parts: Iterable[nn.Module]) -> list[tuple[Tensor, WeightQuantizer]]:
    """Each quantized weight of some modules, with its quantizer."""
    return [
        (weight, quantizer)
        for part in parts
        for _, layer in quant_layers(part)
        for _, weight, quantizer in layer.weights()
    ]


def prepare_step_(weights: Iterable[tuple[Tensor, WeightQuantizer]], key: StepKey) -> None:
    """Write the seeds of the noise and quantize the weights; inside autocast, where the model runs inside it.

    Args:
        weights: that compiled code reads.
        key: that the quantizers share.
    """
    key.write_()
    for weight, quantizer in weights:
        quantizer.prepared.read = quantizer(weight)


def forget_step_(weights: Iterable[tuple[Tensor, WeightQuantizer]]) -> None:
    """Let go of what was left ready."""
    for _, quantizer in weights:
        quantizer.prepared.read = None
