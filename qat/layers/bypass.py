"""Parents that read the weights of their children past the children's forward: quantized layers must be called.

`nn.MultiheadAttention` and PyTorch's linear cross entropy always do; `nn.TransformerEncoderLayer` does so in evaluation
without gradients, on a fast path that can be switched off. For others there is a guard: every quantized layer must be
called while a model is calibrated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from qat.layers.base import QuantLayer
from qat.system.errors import UserError

READERS: tuple[type[nn.Module], ...] = tuple(
    getattr(nn, name) for name in ("MultiheadAttention", "LinearCrossEntropyLoss") if hasattr(nn, name)
)  # never call the layers that are their children


def read_past(model: nn.Module) -> dict[nn.Module, str]:
    """Layer -> why it cannot be quantized, for each whose parent never calls it."""
    return {
        child: f"its parent {type(parent).__name__} reads its weights without calling it"
        for parent in model.modules()
        if isinstance(parent, READERS)
        for child in parent.children()
    }


def switch_off_fast_paths_(model: nn.Module) -> None:
    """Let every transformer of PyTorch that holds a quantized layer call it in evaluation as in training.

    What it computes stays the same but for float32 rounding.
    """
    for module in model.modules():
        if not any(isinstance(child, QuantLayer) for child in module.modules()):
            continue
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # which activation the fused kernel computes: neither it knows
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # which layers off the fast path cannot take


@contextmanager
def watch_calls(model: nn.Module) -> Iterator[set[str]]:
    """While active, gathers the names of the quantized layers that are called.

    Hooks on the layers themselves would not do: they switch PyTorch's fast paths off, and so hide them.
    """
    names = {module: name for name, module in model.named_modules() if isinstance(module, QuantLayer)}
    called: set[str] = set()

    def note(module: nn.Module, inputs: Any) -> None:
        if module in names:
            called.add(names[module])

    hook = register_module_forward_pre_hook(note)
    try:
        yield called
    finally:
        hook.remove()


def check_all_called(model: nn.Module, called: Iterable[str]) -> None:
    """Refuse a model that does not call all of its quantized layers: their quantization would do nothing.

    Args:
        model: with quantized layers.
        called: their names, from `watch_calls`.

    Raises:
        UserError: names the first few that were not called.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, QuantLayer)]
    missing = sorted(set(layers) - set(called))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{', '.join(missing[:3])}{more}: never called in calibration, must be called to compute in whole numbers "
            "(a parent may read the weight past its layer); keep such layers float with a rule of quantize: false"
        )
