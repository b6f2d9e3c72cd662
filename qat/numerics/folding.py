"""BatchNorm folding: one layer that equals a layer and its BatchNorm."""

from __future__ import annotations

from torch import Tensor


def fold_batch_norm(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of one layer that equals the layer followed by a BatchNorm in eval mode.

    `W' = W gamma / sigma`, `b' = (b - mean) gamma / sigma + beta` with `sigma = sqrt(var + eps)`, computed in
    float64 (Nagel 2021, arXiv 2106.08295, section 3.2).

    Args:
        weight: `(C, ...)`, output channels first.
        bias: `(C,)` or None for zero.
        mean: running mean `(C,)`.
        var: running variance `(C,)`.
        gamma: BatchNorm weight `(C,)`, None for one.
        beta: BatchNorm bias `(C,)`, None for zero.
        eps: of the BatchNorm.

    >>> import torch
    >>> one = torch.ones(1)
    >>> fold_batch_norm(torch.ones(1, 1), None, one, 4 * one, 2 * one, one, 0.0)
    (tensor([[1.]]), tensor([0.]))
    """
    factor = (var.double() + eps).rsqrt()
    if gamma is not None:
        factor = factor * gamma.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    shift = shift * factor
    if beta is not None:
        shift = shift + beta.double()
    shape = [-1] + [1] * (weight.ndim - 1)
    return (weight.double() * factor.view(shape)).to(weight.dtype), shift.to(weight.dtype)
