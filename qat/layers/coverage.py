"""How much of a model is quantized: by weights, and by multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from qat.layers.attention import quantized_attentions
from qat.layers.base import QuantLayer
from qat.layers.swap import weighted_layers

FLOAT_BITS = 32
ATTENTION = "attention"  # key of the products outside layers
PRODUCTS = {
    torch.matmul,
    torch.bmm,
    torch.Tensor.matmul,
    torch.Tensor.bmm,
    torch.Tensor.__matmul__,
    nn.functional.scaled_dot_product_attention,
}


def coverage(
    model: nn.Module, macs: dict[str, int] | None = None, in_float: Collection[str] = ()
) -> dict[str, Any]:
    """Shares of the model that are quantized, in [0, 1].

    Args:
        model: after `swap_`.
        macs: from `count_macs`; None leaves the share of multiply-accumulates open.
        in_float: quantized layers that the exported file computes in float all the same.

    Returns:
        `weights` (of all linear, convolutional, recurrent and embedding weights, biases aside), `macs` (of all layers
        and of the attention products; None if unknown), `layers_quantized`, `layers_total`, and
        `skipped`: names of those that compute in float, be their weights quantized or not. Also `mean_weight_bits` over
        the weights, and `mean_activation_bits` over the layers' multiply-accumulates: 32 where they are float.
    """
    layers = list(weighted_layers(model))
    names = {name for name, layer in layers if computes_quantized(layer)} - set(in_float)
    total = sum(weight_count(layer) for _, layer in layers)
    share = mean_activation = None
    if macs:
        integer = names | ({ATTENTION} if any(quantized_attentions(model)) else set())
        share = sum(macs.get(name, 0) for name in integer) / max(sum(macs.values()), 1)
        of_layers = {name: macs.get(name, 0) for name, _ in layers}
        read = sum(activation_bits(layer) * of_layers[name] for name, layer in layers)
        mean_activation = read / max(sum(of_layers.values()), 1)
    return {
        "weights": sum(weight_count(layer) for _, layer in layers if has_weight_bits(layer)) / max(total, 1),
        "macs": share,
        "mean_weight_bits": sum(weight_bits(layer) * weight_count(layer) for _, layer in layers)
        / max(total, 1),
        "mean_activation_bits": mean_activation,
        "layers_quantized": len(names),
        "layers_total": len(layers),
        "skipped": [name for name, _ in layers if name not in names],
    }


def has_weight_bits(layer: nn.Module) -> bool:
    """Whether the weights of a layer are quantized."""
    return isinstance(layer, QuantLayer) and bool(layer.layer_recipe.weight_bits)


def weight_bits(layer: nn.Module) -> int:
    """Of each weight of a layer; 32 where they stay float."""
    return (layer.layer_recipe.weight_bits if isinstance(layer, QuantLayer) else None) or FLOAT_BITS


def activation_bits(layer: nn.Module) -> int:
    """Of the values that a layer multiplies; 32 where they stay float."""
    return (layer.layer_recipe.activation_bits if isinstance(layer, QuantLayer) else None) or FLOAT_BITS


def computes_quantized(layer: nn.Module) -> bool:
    """Whether a layer multiplies quantized weights with quantized activations, or looks quantized weights up."""
    return isinstance(layer, QuantLayer) and not side_in_float(layer)


def side_in_float(layer: nn.Module) -> str:
    """Why a layer that was swapped computes in float all the same; empty if it does not."""
    recipe = getattr(layer, "layer_recipe", None)
    if recipe is None or (recipe.weight_bits and recipe.activation_bits):
        return ""
    if recipe.weight_bits and not getattr(layer, "reads_activations", True):
        return ""
    if recipe.weight_bits:
        return (
            f"weights stored in {recipe.weight_bits} bits, activations float by the recipe: computed in float"
        )
    return f"activations rounded to {recipe.activation_bits} bits, weights float by the recipe: computed in float"


def weight_count(layer: nn.Module) -> int:
    """Elements of a layer's weight matrices and kernels."""
    return sum(p.numel() for p in layer.parameters(recurse=False) if p.ndim > 1)


def count_macs(model: nn.Module, run: Callable[[], Any]) -> dict[str, int]:
    """Multiply-accumulates per layer while `run()` calls the model, and of matrix products outside layers.

    Returns:
        dotted name -> count, and `attention` -> count of the products between activations.
    """
    macs: dict[str, int] = {}
    counter = _Products()
    handles = []

    def leave(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            counter.depth -= 1
            macs[name] = macs.get(name, 0) + layer_macs(layer, inputs[0], output)

        return hook

    def enter(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        counter.depth += 1

    for name, layer in weighted_layers(model):
        handles.append(layer.register_forward_pre_hook(enter))
        handles.append(layer.register_forward_hook(leave(name), always_call=True))
    try:
        with torch.no_grad(), counter:
            run()
    finally:
        for handle in handles:
            handle.remove()
    if counter.macs:
        macs[ATTENTION] = counter.macs
    return macs


def layer_macs(layer: nn.Module, x: Any, output: Any) -> int:
    """Multiply-accumulates of one call of a linear, convolutional or recurrent layer; an embedding has none."""
    if output is None:
        return 0
    if isinstance(layer, nn.modules.conv._ConvNd):
        return output.numel() * layer.weight[0].numel()
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        data = x.data if isinstance(x, PackedSequence) else x
        return data.numel() // data.shape[-1] * weight_count(layer)
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    return 0


class _Products(TorchFunctionMode):
    """Counts matrix products while no layer is running."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS and self.depth == 0:
            self.depth += 1
            try:
                out = func(*args, **(kwargs or {}))
            finally:
                self.depth -= 1
            self.macs += product_macs(func, args, out)
            return out
        return func(*args, **(kwargs or {}))


def product_macs(func: Any, args: tuple[Any, ...], out: Tensor) -> int:
    """Multiply-accumulates of one product of two activations; attention counts both of its products."""
    if func is nn.functional.scaled_dot_product_attention and len(args) >= 3:
        query, key, value = args[:3]
        scores = query.numel() // query.shape[-1] * key.shape[-2]
        return scores * (query.shape[-1] + value.shape[-1])
    return out.numel() * args[0].shape[-1] if len(args) >= 2 else 0
