"""A GPU that is not there: CPU tensors that say they lie on `cuda:0`, for tests on machines without one.

While a `PretendGPU` is entered, `x.to("cuda")` and `torch.zeros(..., device="cuda")` give such tensors, and so does
what is computed from them. An operation on tensors of both devices raises, as on a GPU (single numbers may lie on the
CPU). What makes the CPU wait for the GPU is counted: `item`, `tolist`, `nonzero`, an index of booleans, a copy back.

Values are those of a CPU. Quantizers take the plain path, without Triton, whose kernels `tests/test_gpu_path.py` runs.
Memory, streams, autocast of `cuda` and CUDA's own kernels are not imitated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import ROOT

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
# operations that take some of their arguments, lengths most often, on the CPU
TAKE_CPU = {
    aten.copy_.default,
    aten._pack_padded_sequence.default,
    aten._pad_packed_sequence.default,
    aten._pack_padded_sequence_backward.default,
    aten.lstm.data,
}
# operations whose result has a shape, or a number for Python, that the GPU has to finish first
WAIT = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
PROPERTIES: dict[Any, int] = {
    getattr(Tensor, name).__get__: place for place, name in enumerate(("device", "is_cuda", "is_cpu"))
}
READ_IN_PYTHON = {Tensor.tolist, Tensor.numpy, Tensor.__array__}


class PlacementError(Exception):
    """An operation on tensors of two devices."""


def is_on_gpu(x: Tensor) -> bool:
    """Whether a tensor pretends to."""
    return getattr(x.untyped_storage(), "on_gpu", False)


def mark(x: Tensor, on_gpu: bool) -> None:
    """Let a tensor, and all that share its memory, pretend to or not."""
    x.untyped_storage().on_gpu = on_gpu  # type: ignore[attr-defined] # kept with the memory


def tensors_in(*values: Any) -> list[Tensor]:
    """All tensors in nested arguments; PyTorch's trees take ten times as long."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(*value)
        elif isinstance(value, dict):
            found += tensors_in(*value.values())
    return found


class _Move(torch.autograd.Function):
    """A copy on the other device, whose gradient is moved back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gpu: PretendGPU, to_gpu: bool) -> Tensor:
        ctx.gpu, ctx.back = gpu, not to_gpu
        return gpu.moved(x, to_gpu)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gpu.moved(grads[0], ctx.back), None, None


class _Placement(TorchDispatchMode):
    """Checks where the arguments of each operation lie, and places its results."""

    def __init__(self, gpu: PretendGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, gpu = kwargs or {}, self.gpu
        found = tensors_in(args, kwargs)
        if gpu.moving is not None:
            out = func(*args, **kwargs)
            for item in tensors_in(out):
                mark(item, gpu.moving)
            return out
        there = [item for item in found if is_on_gpu(item)]
        here = [item for item in found if not is_on_gpu(item) and item.ndim and item.numel()]
        if there:
            if func in WAIT or any(index_waits(func, args)):
                gpu.record(str(func))
            if here and func is aten.copy_.default and there[0] is not args[0]:
                gpu.record("copy back")
            elif here and func not in TAKE_CPU:
                places = ", ".join(f"{tuple(x.shape)} on {gpu.device_of(x)}" for x in found)
                raise PlacementError(f"{func}: {places}\n{where()}")
        out = func(*args, **kwargs)
        result = bool(there) if found else gpu.on_gpu
        if func is aten.copy_.default or str(func) == "aten.set_.source_Storage":
            return out
        for item in tensors_in(out):
            if not any(item is old for old in found):
                mark(item, result)
        return out


def index_waits(func: Any, args: tuple[Any, ...]) -> Iterator[bool]:
    """Whether an index is boolean: as many results as it holds ones."""
    if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        yield any(item is not None and item.dtype in (torch.bool, torch.uint8) for item in args[1])


def where() -> str:
    """The lines of ours that are running, innermost last."""
    lines: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(lines) < 4:
        path = frame.f_code.co_filename
        if path.startswith(str(ROOT)) and ".venv" not in path and path != __file__:
            lines.append(f"{path.removeprefix(str(ROOT))}:{frame.f_lineno}")
        frame = frame.f_back
    return "\n".join(reversed(lines))


class PretendGPU(TorchFunctionMode):
    """A GPU whose memory is the CPU's; see the module.

    Attributes:
        reads: for each time that the CPU had to wait: what did it, and the lines of ours that were running.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.on_gpu = False  # where an operation without tensors puts its result
        self.moving: bool | None = None
        self.placement = _Placement(self)
        self.patch = mock.patch("qat.numerics.fused.has_triton", return_value=False)

    def __enter__(self) -> PretendGPU:
        self.placement.__enter__()
        super().__enter__()
        self.patch.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        self.patch.__exit__(*args)
        super().__exit__(*args)
        self.placement.__exit__(*args)

    def device_of(self, x: Tensor) -> torch.device:
        """What a tensor says."""
        return GPU if is_on_gpu(x) else x.device

    def record(self, what: str) -> None:
        """The CPU waits."""
        self.reads.append(f"{what}\n{where()}")

    def moved(self, x: Tensor, to_gpu: bool) -> Tensor:
        """A copy on the other device."""
        if is_on_gpu(x) and not to_gpu:
            self.record("copy back")
        before, self.moving = self.moving, to_gpu
        try:
            return x.clone()
        finally:
            self.moving = before

    def call(self, on_gpu: bool, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a function gives; its operations without tensors put their results on the GPU or not."""
        before, self.on_gpu = self.on_gpu, on_gpu
        try:
            return func(*args, **kwargs)
        finally:
            self.on_gpu = before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "__get__":
            place = PROPERTIES.get(func)  # a new object at each access
            if place is None:
                return func(*args)
            on_gpu = is_on_gpu(args[0])
            return (GPU if on_gpu else func(*args), on_gpu, not on_gpu)[place]
        if func in (torch.device, torch._C._nn._parse_to):
            return func(*args, **kwargs)
        if func is torch._cudnn_rnn_flatten_weight:
            return None
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self.transfer(func, args, kwargs)
        if func is Tensor.__deepcopy__:  # no operation makes its memory
            mark(out := func(*args), is_on_gpu(args[0]))
            return out
        on_gpu = any(map(is_on_gpu, tensors_in(args, kwargs)))
        if func is Tensor.backward:
            return self.call(on_gpu, self.backward, args, kwargs)
        if func is torch.nn.functional.ctc_loss and on_gpu:  # takes its lengths along
            args = tuple(item if is_on_gpu(item) else self.moved(item, True) for item in args)
        if func in READ_IN_PYTHON and on_gpu:
            self.record(name)
        if kwargs.get("device") is not None:
            on_gpu = torch.device(kwargs["device"]).type == "cuda"
            kwargs = {**kwargs, "device": CPU if on_gpu else kwargs["device"]}
        args = tuple(CPU if isinstance(x, torch.device) and x.type == "cuda" else x for x in args)
        out = self.call(on_gpu, func, args, kwargs)
        if func is torch.tensor:  # likewise
            mark(out, on_gpu)
        if name in ("_pack_padded_sequence", "_pad_packed_sequence"):
            mark(out[1], False)  # sizes or lengths
        return out

    def backward(self, x: Tensor, gradient: Tensor | None = None, **kwargs: Any) -> None:
        """`x.backward`, in which functions of ours find the GPU."""
        super().__enter__()
        try:
            torch.autograd.backward(x, gradient, **kwargs)
        finally:
            super().__exit__(None, None, None)

    def transfer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """`to`, `cpu` and `cuda`."""
        x, *rest = args
        if func is not Tensor.to:
            device, dtype = (CPU, None) if func is Tensor.cpu else (GPU, None)
        elif rest and isinstance(rest[0], Tensor):
            device, dtype = self.device_of(rest[0]), rest[0].dtype
        else:
            device, dtype, _, _ = torch._C._nn._parse_to(*rest, **kwargs)
        on_gpu = is_on_gpu(x)
        to_gpu = on_gpu if device is None else device.type == "cuda"
        if to_gpu != on_gpu:
            x = _Move.apply(x, self, to_gpu)
        elif kwargs.get("copy"):
            x = x.clone()
        return x if dtype is None else self.call(to_gpu, x.to, (dtype,), {})
