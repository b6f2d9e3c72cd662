"""Switching, calibrating, hashing and loading the quantizers of a whole model."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from qat.layers.quantizer import Quantizer
from qat.layers.swap import quant_layers, quantizers
from qat.layers.weight_norm import strip_weight_norm
from qat.system.errors import UserError

EXTRA_STATE = "_extra_state"  # of any size, such as a tokenizer


def set_enabled_(model: nn.Module, enabled: bool) -> None:
    """Switch every quantizer on or off; off computes exactly the plain float model.

    Raises:
        UserError: a quantizer to be switched on has no range yet.
    """
    for name, quantizer in quantizers(model):
        if enabled and not bool(quantizer.calibrated):
            raise UserError(f"{name}: is not calibrated yet, so it cannot be switched on")
    for _, quantizer in quantizers(model):
        quantizer.set_enabled_(enabled)


def set_observing_(model: nn.Module, observing: bool) -> None:
    """Let every activation quantizer add what it sees to its histogram, or stop."""
    for _, quantizer in quantizers(model):
        quantizer.observing = observing


def calibrate_weights_(model: nn.Module) -> None:
    """Choose all weight scales from the weights.

    Raises:
        UserError: a weight holds NaN or infinity; names it.
    """
    for layer_name, layer in quant_layers(model):
        for name, weight, quantizer in layer.weights():
            quantizer.calibrate_(weight, f"{layer_name}.{name}")


def finish_calibration_(model: nn.Module) -> None:
    """Choose all activation ranges from the histograms.

    Raises:
        UserError: a quantizer saw nothing, or NaN or infinity; names it.
    """
    for name, quantizer in quantizers(model):
        quantizer.finish_calibration_(name)


def move_weights_to_levels_(model: nn.Module) -> None:
    """Let rounding to nearest do what AdaRound chose, so that training can start (`move_to_levels_`)."""
    for _, layer in quant_layers(model):
        for _, weight, quantizer in layer.weights():
            quantizer.move_to_levels_(weight)


def state_hash(model: nn.Module) -> str:
    """SHA-256 of the whole state of all quantizers with their names, as hex: equal on ranks that agree.

    A GPU's part of it is copied at once: hundreds of copies would take hundreds of times as long.
    """
    digest = hashlib.sha256()
    by_device: dict[torch.device, list[Tensor]] = {}
    for name, quantizer in quantizers(model):
        for key, tensor in quantizer.state_dict(prefix=f"{name}.").items():
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            by_device.setdefault(tensor.device, []).append(tensor.contiguous().reshape(-1).view(torch.uint8))
    for parts in by_device.values():
        digest.update(torch.cat(parts).cpu().numpy().tobytes())
    return digest.hexdigest()


def load_float_state_(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Load a float state dict into a model whose layers may be quantized; weight_norm factors are multiplied out.

    Raises:
        UserError: a key other than a quantizer's is missing, or one is unexpected or has another shape.
    """
    stripped = strip_weight_norm(state_dict)
    ours = model.state_dict()
    modules = model.named_modules(
        remove_duplicate=False
    )  # a shared quantizer has a name in each of its layers
    prefixes = tuple(f"{name}." for name, module in modules if isinstance(module, Quantizer))
    missing = [key for key in ours if key not in stripped and not key.startswith(prefixes)]
    unexpected = [key for key in stripped if key not in ours]
    if missing or unexpected:
        raise UserError(
            f"the weights do not fit the model: {missing[0]!r} is missing"
            if missing
            else f"the weights do not fit the model: {unexpected[0]!r} is not in the model"
        )
    for key, value in stripped.items():
        if value.shape != ours[key].shape and not key.endswith(EXTRA_STATE):
            raise UserError(
                f"the weights do not fit the model: {key!r} has shape {tuple(value.shape)}, "
                f"and the model's is {tuple(ours[key].shape)}"
            )
    model.load_state_dict(stripped, strict=False)
