"""Starts Triton kernels; from the second time on without Triton's search for the compiled one.

That search takes longer than all else that a launch does in Python, and a training step has hundreds of launches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ALIGNED = 16  # bytes of an address, and factor of a number, that Triton compiles for
FOUND: dict[
    tuple[Any, ...], tuple[Any, tuple[Any, ...]]
] = {}  # compiled kernels, and their constants in order


def launch(kernel: Any, programs: int, x: Tensor, *args: Any, **constants: Any) -> None:
    """Run a kernel on the device of `x`.

    Args:
        kernel: a `triton.jit` function.
        programs: how many.
        x: lies where it runs.
        args: tensors and numbers, in the kernel's order; its constants come after them.
        constants: by name; with Triton's own options.
    """
    if not x.is_cuda:  # the interpreter
        kernel[(programs,)](*args, **constants, enable_fp_fusion=False)
    elif x.get_device() != torch.cuda.current_device():
        with torch.cuda.device(x.device):
            launch_found(kernel, programs, x.get_device(), args, constants)
    else:
        launch_found(kernel, programs, x.get_device(), args, constants)


def launch_found(
    kernel: Any, programs: int, device: int, args: tuple[Any, ...], constants: dict[str, Any]
) -> None:
    """Run a kernel on the current device: as Triton does where it is new, else as it was found."""
    key = (kernel, device, tuple(map(traits, args)), tuple(constants.values()))
    found = FOUND.get(key)
    if found is not None:
        found[0][(programs, 1, 1)](*args, *found[1])
        return
    compiled = kernel[(programs,)](*args, **constants, enable_fp_fusion=False)
    if compiled is not None and torch.version.hip is None:  # for AMD, Triton looks at more than `traits`
        FOUND[key] = compiled, tuple(constants[name] for name in kernel.arg_names[len(args) :])


def traits(value: Any) -> Any:
    """What a kernel may be compiled for: equal traits never need different code.

    Of a tensor its dtype and whether its address is aligned; of a whole number whether it is 1, divisible, and of 32
    bits; of others the type.
    """
    if isinstance(value, Tensor):
        return value.dtype, value.data_ptr() % ALIGNED == 0
    if type(value) is int:
        return value == 1, value % ALIGNED == 0, -(2**31) <= value < 2**31
    return type(value)
