"""Writing a model to one ONNX file, with integer or with float arithmetic."""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset21 as op
from torch import Tensor, nn

from datamodules.audio_file import SAMPLE_RATE
from qat.layers.swap import quantizers
from qat.models.ctc import CTCModule
from qat.runtime.formats import FORMAT_KEY, FileFormat, Precision, check_target
from qat.runtime.frontend import OnnxFbank
from qat.runtime.fused import fuse_, keep_norms_apart_
from qat.runtime.groups import merge_groups_
from qat.runtime.layers import replace_layers_
from qat.runtime.layouts import quantize_first_
from qat.runtime.metadata import metadata
from qat.runtime.packing import name_axes_, name_nodes_, pack_low_bits_, write_atomically
from qat.runtime.portable import make_portable_
from qat.system.errors import UserError

OPSET = 21  # the first with int4
AXES = {
    "signal": ("batch", "samples"),
    "lengths": ("batch",),
    "logits": ("batch", "frames"),
    "frames": ("batch",),
}  # names of the free axes of inputs and outputs, the first ones


@dataclass(frozen=True)
class ExportInfo:
    """One written file.

    Args:
        path: where it is.
        precision: "integer" or "float".
        size_mb: bytes / 1e6.
        sha256: of the file.
        packed: number of weights stored in 2 to 4 bits, with nodes that unpack them.
    """

    path: Path
    precision: Precision
    size_mb: float
    sha256: str
    packed: int


class Wrapped(nn.Module):
    """A module's forward and nothing else of it: what is traced (a LightningModule brings its trainer along).

    Args:
        module: the module.
        run: what is computed in place of its forward, from the module and the inputs.
    """

    def __init__(self, module: nn.Module, run: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.module, self.run = module, run

    def forward(self, *inputs: Tensor) -> Any:
        """As the module, or as `run`."""
        return self.module(*inputs) if self.run is None else self.run(self.module, *inputs)


@torch.no_grad()
def export_onnx(
    module: CTCModule,
    path: str | Path,
    precision: Precision,
    checkpoint_sha256: str = "",
    file_format: FileFormat = "onnxruntime",
) -> ExportInfo:
    """Write `module` to a file that needs neither PyTorch nor this package: waveform in, logits out.

    Inputs are `signal (B, S)` float32 at 16 kHz and `lengths (B,)` int64, outputs `logits (B, T, V)` and
    `frames (B,)`; B (`batch`), S (`samples`) and T (`frames`) are free. The module is not changed.

    Args:
        module: with or without quantized layers.
        path: the file; written beside it and then renamed.
        precision: "integer" computes quantized layers on integers, "float" exports the same layers unquantized.
        checkpoint_sha256: see `qat.runtime.metadata.origin`.
        file_format: see `qat.runtime.formats.ExportOptions`.

    Raises:
        UserError: an integer export of a module that is not quantized and calibrated, or that was made for another
            runtime; or see `make_portable_` and `write_atomically`.
    """
    path = Path(path)
    check_ready(module, precision)
    if precision == "integer":
        check_target(module.recipe, file_format)
    copied = copy.deepcopy(module, {id(getattr(module, "_trainer", None)): None}).cpu().float().eval()
    replace_layers_(copied, precision)
    portable = file_format == "qdq"
    if not portable:
        fuse_(copied)
    lengths = torch.tensor([2 * SAMPLE_RATE, SAMPLE_RATE])
    inputs = {"signal": torch.zeros(2, 2 * SAMPLE_RATE), "lengths": lengths}
    model = trace(copied, inputs, ["logits", "frames"])
    frontends = [name for name, child in copied.named_modules() if isinstance(child, OnnxFbank)]
    name_nodes_(model, frontends, portable)
    name_axes_(model, AXES)
    packed = finish_(model, portable, signed=module.recipe.target == "tensorrt")
    model.metadata_props.update(metadata(module, precision, checkpoint_sha256))
    if portable:
        model.metadata_props[FORMAT_KEY] = file_format
    write_atomically(model, path)
    data = path.read_bytes()
    return ExportInfo(path, precision, len(data) / 1e6, hashlib.sha256(data).hexdigest(), packed)


def finish_(model: ir.Model, portable: bool, signed: bool) -> int:
    """Bring a named graph into the form of its runtime; how many weights are stored in few bits.

    Args:
        model: changed in place.
        portable: for any runtime, of standard operators; else for ONNX Runtime.
        signed: see `make_portable_`.

    Raises:
        UserError: see `make_portable_`.
    """
    if portable:
        return make_portable_(model, signed)
    keep_norms_apart_(model)
    merge_groups_(model)
    quantize_first_(model)
    return pack_low_bits_(model)


def check_ready(module: CTCModule, precision: str) -> None:
    """Refuse what would silently become something else.

    Raises:
        UserError: an unknown precision, nothing to quantize, or a quantizer that is off.
    """
    if precision not in ("integer", "float"):
        raise UserError(f"precision: {precision!r}, must be integer or float")
    if precision == "float":
        return
    found = list(quantizers(module))
    if not found:
        raise UserError(
            "export: the model has no quantized layer, so there is no integer file; export it as float"
        )
    for name, quantizer in found:
        if not (bool(quantizer.calibrated) and quantizer.is_enabled):
            state = "not calibrated" if not bool(quantizer.calibrated) else "switched off"
            raise UserError(
                f"export: {name} is {state}; calibrate the model and switch it on before the export"
            )


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    run: Callable[..., Any] | None = None,
    axes: Mapping[str, Sequence[str]] | None = None,
) -> ir.Model:
    """The ONNX graph of a module whose layers are in exported form.

    Args:
        module: takes the inputs in order.
        inputs: name -> example.
        outputs: names.
        run: see `Wrapped`.
        axes: name of an input -> names of its free axes, the first ones; None: the first two of each (batch and time).
    """

    def free(name: str, x: Tensor) -> dict[int, Any]:
        count = min(x.ndim, 2) if axes is None else len(axes[name])
        return dict.fromkeys(range(count), torch.export.Dim.DYNAMIC)

    with quiet():
        program = torch.onnx.export(
            Wrapped(module, run).eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=(tuple(free(*item) for item in inputs.items()),),
            custom_translation_table={
                torch.ops.aten.squeeze.dim: squeeze,
                torch.ops.aten.floor_divide.default: floor_divide,
            },
            verbose=False,
        )
    assert program is not None
    return program.model


def squeeze(x: Any, dim: int) -> Any:
    """`Tensor.squeeze(dim)` leaves an axis longer than one alone (SpeechBrain's Conv2d relies on it); Squeeze fails."""
    size = x.shape[dim]
    if isinstance(size, int) and size != 1:
        return op.Identity(x)
    axes: Any = op.Constant(value_ints=[dim])
    return op.Squeeze(x, axes)


def floor_divide(x: Any, divisor: Any) -> Any:
    """Lengths by strides: neither is ever negative, which the exporter would ask five nodes."""
    return op.Div(x, op.CastLike(divisor, x))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's notes about packages that are not installed and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
