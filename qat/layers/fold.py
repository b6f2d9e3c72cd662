"""Folding a BatchNorm module into the layer before it."""

from __future__ import annotations

import torch
from torch import nn

from qat.numerics.folding import fold_batch_norm
from qat.system.errors import UserError


@torch.no_grad()
def fold_batch_norm_(layer: nn.Module, norm: nn.Module) -> None:
    """Fold an eval-mode BatchNorm into the linear or convolutional layer that feeds it, in place.

    The caller then removes the norm. Works on float and quantized layers alike; fold before calibration.

    Args:
        layer: `nn.Linear`, `nn.Conv1d` or `nn.Conv2d` (or quantized); gains a bias if it had none.
        norm: `nn.BatchNorm1d` or `nn.BatchNorm2d` with running statistics; nothing else may read the layer.

    Raises:
        UserError: types or channel counts that do not fit, or a norm without running statistics.
    """
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        raise UserError(f"a BatchNorm cannot be folded into a {type(layer).__name__}")
    if (
        not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        or norm.running_mean is None
        or norm.running_var is None
    ):
        raise UserError(f"{type(norm).__name__} has no running statistics to fold")
    if norm.num_features != layer.weight.shape[0]:
        raise UserError(
            f"BatchNorm of {norm.num_features} channels does not fit {layer.weight.shape[0]} outputs"
        )
    weight, bias = fold_batch_norm(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
    )
    layer.weight.copy_(weight)
    if layer.bias is None:
        layer.bias = nn.Parameter(bias)
    else:
        layer.bias.copy_(bias)
