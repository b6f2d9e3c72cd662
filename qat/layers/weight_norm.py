"""Removing weight_norm: a quantizer needs the weight itself, not its factors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import remove_weight_norm as remove_hook
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

STYLES = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


def remove_weight_norm_(model: nn.Module) -> list[str]:
    """Replace weight_norm (parametrization or old hook) by the plain weight, in place; names of the layers.

    Raises:
        RuntimeError: a weight changed.
    """
    names = []
    module: Any  # its weight may be a Parameter, a tensor or parametrized
    for name, module in list(model.named_modules()):
        new_style = parametrize.is_parametrized(module, "weight") and any(
            isinstance(item, _WeightNorm) for item in module.parametrizations.weight
        )
        hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]
        old_style = [hook for hook in hooks if hook.name == "weight"]
        if not (new_style or old_style):
            continue
        if old_style:
            before = old_style[0].compute_weight(module).detach()
            remove_hook(module)
        else:
            before = module.weight.detach().clone()
            trained = module.parametrizations.weight.original1.requires_grad
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            if not isinstance(module.weight, nn.Parameter):  # without gradients a plain tensor is left behind
                delattr(module, "weight")
                module.register_parameter("weight", nn.Parameter(before.clone(), requires_grad=bool(trained)))
        if not torch.equal(before, module.weight.detach()):
            raise RuntimeError(f"{name}: removing weight_norm changed the weight")
        names.append(name)
    return names


def strip_weight_norm(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict with the factors of weight_norm (either key style) multiplied out to plain weights."""
    stripped = dict(state_dict)
    for magnitude, direction in STYLES:
        for key in [key for key in state_dict if key.endswith("." + magnitude) or key == magnitude]:
            prefix = key.removesuffix(magnitude)
            g, v = stripped.pop(key), stripped.pop(prefix + direction)
            stripped[prefix + "weight"] = weight_of(g, v)
    return stripped


def weight_of(g: Tensor, v: Tensor) -> Tensor:
    """`g v / |v|`; `g` keeps the one dimension that the norm leaves out."""
    kept = [axis for axis in range(v.ndim) if g.ndim == v.ndim and g.shape[axis] != 1]
    if len(kept) != 1 and g.numel() == 1:
        return torch._weight_norm(v, g, -1)
    return torch._weight_norm(v, g, kept[0])
