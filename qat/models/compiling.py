"""Training under `torch.compile`: parts of a model are compiled in place, for as long as training lasts.

A part is what PyTorch traces whole. What it cannot trace stays between the parts: SpecAugment draws from NumPy,
LayerDrop decides by a number, an LSTM is one kernel already, and the gradient of a convolution's input would be
compiled anew for every length (PyTorch 2.14, `convolution_backward_lowering`). Parts of one shape share one graph.
Weights are quantized before each forward, all of them together. Outside training mode a part runs uncompiled, so that
validation computes bit for bit what it does without `--model.compile`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from qat.layers.prepare import forget_step_, prepare_step_, weights_of
from qat.layers.quantizer import StepKey
from qat.system.errors import UserError

COMPILER: dict[str, Any] = {"dynamic": True}  # arguments of `torch.compile`; batches differ in length
GRAPHS_PER_CLASS = (
    64  # PyTorch's 8 are too few for a recipe whose rules give layers of one class many bit widths
)


class CompiledCall:
    """What is called in place of a module or function: compiled in training mode, as it is elsewhere.

    Args:
        plain: the call of before.
        module: whose mode decides.
    """

    def __init__(self, plain: Callable[..., Any], module: nn.Module) -> None:
        self.plain, self.module = plain, module
        self.compiled: Callable[..., Any] = torch.compile(plain, **COMPILER)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Of whatever it stands for."""
        return (self.compiled if self.module.training else self.plain)(*args, **kwargs)


class Compiled:
    """A model whose parts are compiled until `stop_`; parameters, keys of the state and hooks stay where they are.

    Args:
        model: that the parts belong to.
        parts: modules to compile, each at its first call in training.
        functions: names of the model's static methods to compile likewise.
    """

    def __init__(self, model: nn.Module, parts: Iterable[nn.Module], functions: Iterable[str] = ()) -> None:
        from torch._dynamo import config

        self.replaced: list[tuple[nn.Module, str]] = []
        self.settings = ExitStack()
        # DDP cuts a graph so that gradients travel while others are computed; between parts they do already.
        self.settings.enter_context(config.patch(recompile_limit=GRAPHS_PER_CLASS, optimize_ddp=False))
        self.before = counts()
        parts = list(parts)
        self.weights = weights_of(parts)
        for part in parts:
            self.replace_(part, "_compiled_call_impl", CompiledCall(part._call_impl, part))
        for name in functions:
            self.replace_(model, name, CompiledCall(getattr(model, name), model))

    def replace_(self, owner: nn.Module, name: str, call: CompiledCall) -> None:
        """Let an attribute of the instance hide that of its class."""
        setattr(owner, name, call)
        self.replaced.append((owner, name))

    def prepare_step_(self, key: StepKey) -> None:
        """Quantize the weights that the next forward reads; inside autocast, where that runs inside it."""
        prepare_step_(self.weights, key)

    def stop_(self) -> str:
        """Bring back what was there before; says how many graphs there were, and what broke any into pieces."""
        for owner, name in self.replaced:
            delattr(owner, name)
        forget_step_(self.weights)
        self.settings.close()
        (graphs, breaks), (graphs_before, breaks_before) = counts(), self.before
        reasons = [
            reason.splitlines()[0] for reason, count in breaks.items() if count > breaks_before.get(reason, 0)
        ]
        broken = f"graph breaks: {'; '.join(reasons)}" if reasons else "no graph breaks"
        return f"compiled {len(self.replaced)} parts into {graphs - graphs_before} graphs, {broken}"


def counts() -> tuple[int, dict[str, int]]:
    """Graphs that this process has compiled so far, and how often each reason broke one into pieces."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], dict(counters["graph_break"])


def check_compiler(device: torch.device) -> None:
    """Compile one addition, so that a machine that cannot says so before anything is calibrated.

    Args:
        device: that training will run on.

    Raises:
        UserError: `torch.compile` does not work there, with its reason.
    """

    def add_one(x: Tensor) -> Tensor:
        return x + 1

    try:
        torch.compile(add_one, **COMPILER)(torch.zeros(2, device=device))
    except Exception as error:  # a compiler may be missing, too old or broken
        text = str(getattr(error, "inner_exception", error)).strip() or type(error).__name__
        reason = text.splitlines()[0][:200]
        raise UserError(
            f"compile: true, must be false where torch.compile does not work ({reason}); install a C++ compiler, or "
            "leave --model.compile out"
        ) from None
