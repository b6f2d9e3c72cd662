"""Self-attention on integers: both of its products, and the probabilities between them.

Queries, keys and values have one range each, from calibration. A probability may be as small as 1 / T, so each row of
them has all levels, from zero to its largest; that row's scale is multiplied in after the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.activation import ActivationQuantizer
from qat.layers.base import device_of, emulates_kernel
from qat.layers.frames import FrameQuantizer

IMPLEMENTATION = "speech_qat"  # of attention, as Transformers knows it
CHILD = "products"  # name of a `QuantAttention` in the attention that it belongs to


class QuantAttention(nn.Module):
    """What lies between the projections of a self-attention.

    Args:
        recipe: of the whole model; its `attention_bits` count.
        device: of the state.
    """

    def __init__(self, recipe: LayerRecipe, device: torch.device | str = "cpu") -> None:
        super().__init__()
        bits = recipe.attention_bits or 8
        left = replace(recipe, activation_bits=bits, activation_granularity="tensor", activation_signed=False)
        # the right side of a product has the levels of a weight: signed, and 7 bits where pairs of products saturate
        narrow = bits - 1 if bits == 8 and recipe.reduce_range else bits
        right = replace(left, activation_bits=narrow, activation_signed=True)
        self.query_quantizer = ActivationQuantizer(left, -2, device)
        self.key_quantizer = ActivationQuantizer(right, -2, device)
        self.value_quantizer = ActivationQuantizer(right, -2, device)
        self.probability_quantizer = FrameQuantizer(left).to(device)

    @property
    def is_active(self) -> bool:
        """Whether it quantizes and does not only watch."""
        return self.probability_quantizer.is_active

    @property
    def can_emulate(self) -> bool:
        """See `QuantLayer`."""
        return self.is_active and not torch.is_grad_enabled()

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, dropout: float
    ) -> Tensor:
        """Context `(B, N, T, D)`; exactly `F.scaled_dot_product_attention` while off.

        Args:
            query: `(B, N, T, D)` of N heads.
            key: likewise.
            value: likewise.
            mask: `(B, 1, 1, T)`, added to the products: 0 where a frame is valid, large and negative elsewhere.
            scaling: of the products.
            dropout: of the probabilities.
        """
        if emulates_kernel(self, query):
            return self.emulate(query, key, value, mask, scaling)
        query, key = self.query_quantizer(query), self.key_quantizer(key)
        value = self.value_quantizer(value)
        if not self.is_active:
            return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scaling)
        scores = query.matmul(key.transpose(-1, -2)) * scaling + mask
        probabilities = F.dropout(scores.float().softmax(-1), dropout)
        return self.probability_quantizer(probabilities).to(value.dtype).matmul(value)

    def emulate(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        """As the exported file computes: whole-number sums, rescaled once."""
        left, left_scale, zero_point = self.query_quantizer.levels(query)
        right, right_scale, _ = self.key_quantizer.levels(key)
        sums = left.sub_(zero_point).matmul(right.transpose(-1, -2))
        scores = sums.mul_((left_scale * scaling) * right_scale).add_(mask)
        rows, row_scale, _ = self.probability_quantizer.levels(scores.softmax(-1))
        right, right_scale, _ = self.value_quantizer.levels(value)
        return rows.matmul(right).mul_(right_scale).mul_(row_scale)


def quantized_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """What Transformers calls in place of `F.scaled_dot_product_attention`.

    Args:
        module: the attention.
        query: `(B, N, T, D)`.
        key: likewise.
        value: likewise.
        attention_mask: `(B, 1, 1, T)`.
        scaling: of the products.
        dropout: of the probabilities, 0 in evaluation.

    Returns:
        `(B, T, N, D)`, and no weights.
    """
    products = module._modules.get(CHILD)
    inputs = (query, key, value, attention_mask)
    if isinstance(products, QuantAttention):
        out = products(*inputs, scaling, dropout)
    else:
        out = F.scaled_dot_product_attention(*inputs, dropout, scale=scaling)
    return cast(Tensor, out).transpose(1, 2).contiguous(), None


def attend_by_(model: nn.Module, name: str, function: Callable[..., tuple[Tensor, None]]) -> None:
    """Let every attention of Transformers below `model` call a function for its products.

    Args:
        model: of any class; without attention of Transformers it is left alone.
        name: of the function, as Transformers is to know it.
        function: such as `quantized_attention`.
    """
    configs: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    found = {id(config): config for config in configs if hasattr(config, "_attn_implementation")}
    if not found:
        return
    from transformers import AttentionInterface

    AttentionInterface.register(name, function)
    for config in found.values():
        config._attn_implementation = name


def quantize_attention_(model: nn.Module, recipe: LayerRecipe) -> list[str]:
    """Quantize the products of every self-attention of Transformers below `model`, in place; its names.

    The quantizers are off.
    """
    attend_by_(model, IMPLEMENTATION, quantized_attention)
    names = []
    for name, module in list(model.named_modules()):
        if all(hasattr(module, key) for key in ("q_proj", "k_proj", "v_proj", "config")):
            module.add_module(CHILD, QuantAttention(recipe, device_of(module)))
            names.append(f"{name}.{CHILD}")
    return names


def quantized_attentions(model: nn.Module) -> Iterator[tuple[str, QuantAttention]]:
    """Yield (dotted name, products) of every self-attention that is quantized."""
    for name, module in model.named_modules():
        if isinstance(module, QuantAttention):
            yield name, module
