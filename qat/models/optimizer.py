"""What is optimised, and how fast: parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from qat.layers.swap import quantizers


def parameter_groups(
    module: nn.Module, weight_decay: float, quantizer_learning_rate: float
) -> list[dict[str, Any]]:
    """Optimiser groups of all trainable parameters: decayed matrices, undecayed vectors, learned scales; none empty.

    Args:
        module: may hold quantizers with learned scales.
        weight_decay: of everything with two or more dimensions.
        quantizer_learning_rate: of the learned scales.
    """
    scales = {id(p) for _, quantizer in quantizers(module) for p in quantizer.parameters()}
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = [p for p in trained if id(p) not in scales]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        {
            "params": [p for p in trained if id(p) in scales],
            "weight_decay": 0.0,
            "lr": quantizer_learning_rate,
        },
    ]
    return [group for group in groups if group["params"]]


def adamw(groups: list[dict[str, Any]], learning_rate: float, may_fuse: bool) -> AdamW:
    """AdamW over `groups`, in a few launches where all parameters lie on a GPU.

    Args:
        groups: from `parameter_groups`.
        learning_rate: of groups that have none.
        may_fuse: False where gradients are scaled and clipped: a fused AdamW takes the scale off by itself, after they
            were clipped, which Lightning refuses.
    """
    fused = may_fuse and all(p.is_cuda for group in groups for p in group["params"])
    optimizer = AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=fused or None)
    optimizer.register_load_state_dict_pre_hook(keep_fused)
    return optimizer


def keep_fused(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's state for `optimizer`: this machine decides whether steps are fused, not the checkpoint."""
    ours = [group["fused"] for group in optimizer.param_groups]
    groups = [{**group, "fused": own} for group, own in zip(state_dict["param_groups"], ours, strict=False)]
    return {**state_dict, "param_groups": groups}


def warmup_cosine(step: int, steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear warm-up, then cosine decay to `final_ratio`.

    The warm-up takes `warmup_steps`, a quarter of all steps at most.

    >>> [round(warmup_cosine(step, 12, 2, 0.0), 2) for step in (0, 1, 2, 7, 12)]
    [0.33, 0.67, 1.0, 0.5, 0.0]
    """
    warmup = min(warmup_steps, steps // 4)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
