"""An exported graph's last touches: readable names, storage in 2 to 4 bits, and one file written at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qat.runtime.frames import expand_frame_linear_
from qat.runtime.fused import expand_branches_
from qat.runtime.loops import constant, expand_loops_
from qat.runtime.operators import LOOPS
from qat.system.errors import UserError
from qat.system.files import replacing

FRONTEND = "frontend"
SCOPES = "pkg.torch.onnx.name_scopes"
NO_MODULE = "_empty_nn_module_stack"  # what the exporter writes for shapes of the inputs
PROTOBUF_LIMIT = 2**31 - 1


def name_nodes_(model: ir.Model, frontend: Collection[str], portable: bool = False) -> None:
    """Name nodes, outputs and constants after the module that they come from: `crdnn.DNN.block_0.linear.w/MatMul`.

    Loops and branches, which the exporter left as one node each, are written out. Nodes of the modules named in
    `frontend` (filterbanks, float by design) get the prefix `frontend/`. The exporter's own notes, which hold stack
    traces and paths of the exporting machine, are dropped. With `portable`, layers with a range for each row are left
    to `qat.runtime.portable`.
    """
    graph, counts = model.graph, dict[str, int]()
    for value in list(graph.initializers.values()):
        value.metadata_props.clear()
        value.name = str(value.name).removeprefix("module.")
    kept = {id(value) for value in graph.outputs}
    for node in graph:
        path = module_path(node.metadata_props.get(SCOPES, "[]")) or owner_of_constant(node)
        if any(path == name or path.startswith(f"{name}.") for name in frontend):
            path = f"{FRONTEND}/{path}"
        stem = f"{path or 'model'}/{node.op_type}"
        counts[stem] = counts.get(stem, -1) + 1
        node.name = f"{stem}_{counts[stem]}" if counts[stem] else stem
        node.metadata_props.clear()
        for index, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if id(value) not in kept:  # ONNX Runtime names some nodes that it rewrites after their outputs
                value.name = f"{node.name}:{index}"
    for value in graph.inputs:
        value.metadata_props.clear()
    graph.metadata_props.clear()
    expand_loops_(model)
    expand_branches_(model)
    if not portable:
        expand_frame_linear_(model)
    RemoveUnusedNodesPass()(model)  # of what was written out in another way
    model.graph.opset_imports.pop(LOOPS, None)


def name_axes_(model: ir.Model, axes: Mapping[str, Sequence[str]]) -> None:
    """Name the free axes of inputs and outputs, and of all values between them.

    The exporter calls them `s21`, `s41`, and those that follow from them by formulas.

    Args:
        model: its free axes are the first ones of each input and output.
        axes: name of an input or output -> names of its first axes.
    """
    names: dict[str, str] = {}
    for value in [*model.graph.inputs, *model.graph.outputs]:
        for index, name in enumerate(axes[str(value.name)]):
            names.setdefault(dim_text(value, index), name)
    symbols = {text: name for text, name in names.items() if text.isidentifier()}
    inner = [value for node in model.graph for value in node.outputs]
    for value in [*model.graph.inputs, *inner]:
        if value.shape is not None:
            value.shape = ir.Shape([renamed(dim, names, symbols) for dim in value.shape])


def dim_text(value: ir.Value, axis: int) -> str:
    """The exporter's symbol or formula of one axis."""
    assert value.shape is not None
    dim = value.shape[axis]
    assert isinstance(dim, ir.SymbolicDim), f"axis {axis} of {value.name} is fixed"
    return str(dim.value)


def renamed(
    dim: int | ir.SymbolicDim, names: Mapping[str, str], symbols: Mapping[str, str]
) -> int | ir.SymbolicDim:
    """An axis under its new name; in a formula the symbols get theirs.

    >>> renamed(ir.SymbolicDim("s2 + 1"), {"s2": "samples"}, {"s2": "samples"}).value
    'samples + 1'
    """
    if isinstance(dim, int) or dim.value is None:
        return dim
    text = str(dim.value)
    if text in names:
        return ir.SymbolicDim(names[text])
    return ir.SymbolicDim(re.sub(r"[A-Za-z_]\w*", lambda found: symbols.get(found[0], found[0]), text))


def module_path(scopes: str) -> str:
    """Innermost module in the exporter's list of scopes, whose last entry is the operator itself.

    >>> module_path("['', 'module', 'module.head', 'linear']")
    'head'
    """
    entries = [item.strip(" '") for item in scopes.strip("[]").split(",")]
    if len(entries) < 2 or entries[-2].startswith(NO_MODULE):
        return ""
    return entries[-2].removeprefix("module").removeprefix(".")


def owner_of_constant(node: ir.Node) -> str:
    """Module that holds the first named constant of a node; empty if there is none."""
    names = [str(item.name) for item in node.inputs if item is not None and item.is_initializer()]
    return next((name.rpartition(".")[0] for name in names if "." in name), "")


def pack_low_bits_(model: ir.Model) -> int:
    """Store int8 weights whose levels need 4 bits or fewer in just so many, with nodes that unpack them; their count.

    Four bits are packed int4 with a Cast, two and three bits are bit planes. ONNX Runtime has no kernels for them
    under these operators: it unpacks once, when it loads the file, and computes on int8.
    """
    packed = 0
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.INT8 or len(tensor.shape) < 2:
            continue
        levels = tensor.numpy()
        bits = odd_bits_needed(levels) or bits_needed(levels)
        if bits > 4 or not levels.any():
            continue
        nodes = unpack_four_bits(name, levels) if bits == 4 else unpack_planes(name, levels, bits)
        for item in (item for node in nodes for item in node.inputs):
            if item is not None and item.const_value is not None:
                model.graph.initializers.add(item)
        model.graph.insert_before(model.graph[0], nodes)
        value.replace_all_uses_with(nodes[-1].outputs[0])
        nodes[-1].outputs[0].name = f"{name}.unpacked"
        del model.graph.initializers[name]
        packed += 1
    return packed


def bits_needed(levels: NDArray[np.int8]) -> int:
    """The least width from 2 on whose two's complement holds all levels.

    >>> bits_needed(np.array([-1, 1])), bits_needed(np.array([-3, 3])), bits_needed(np.array([7]))
    (2, 3, 4)
    """
    low, high = int(levels.min()), int(levels.max())
    return next(bits for bits in range(2, 9) if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1))


def odd_bits_needed(levels: NDArray[np.int8]) -> int:
    """The least width from 2 to 3 in which odd levels fit as codes, `2 code - (2^bits - 1)`; 0 where none does.

    >>> odd_bits_needed(np.array([-3, 1])), odd_bits_needed(np.array([7, -1])), odd_bits_needed(np.array([1, 2]))
    (2, 3, 0)
    """
    most = int(np.abs(levels.astype(np.int16)).max())
    if most > 7 or not np.all(levels & 1):
        return 0
    return 2 if most <= 3 else 3


def unpack_four_bits(name: str, levels: NDArray[np.int8]) -> list[ir.Node]:
    """int4 -> int8."""
    small = constant(f"{name}.packed", levels.astype(ml_dtypes.int4))
    return [ir.node("Cast", [small], attributes={"to": ir.DataType.INT8.value}, name=f"{name}/Unpack")]


def unpack_planes(name: str, levels: NDArray[np.int8], bits: int) -> list[ir.Node]:
    """Bit planes `(bits, ceil(n / 8), 1)` of codes from 0 on -> int8 of the weight's shape.

    A level is its code less `2^(bits - 1)`; where all are odd, twice its code less `2^bits - 1`.
    """
    count = levels.size
    step, offset = (2, 2**bits - 1) if odd_bits_needed(levels) else (1, 2 ** (bits - 1))
    codes = ((levels.astype(np.int16).reshape(-1) + offset) // step).astype(np.uint8)
    planes = np.stack([np.packbits((codes >> plane) & 1, bitorder="little") for plane in range(bits)])

    def node(op_type: str, inputs: list[ir.Value], **attributes: Any) -> ir.Node:
        made.append(ir.node(op_type, inputs, attributes=attributes, name=f"{name}/Unpack_{len(made)}"))
        made[-1].outputs[0].name = f"{name}/Unpack_{len(made)}:0"
        return made[-1]

    made: list[ir.Node] = []
    stored = constant(f"{name}.packed", planes[:, :, None])
    x = node("BitShift", [stored, constant(f"{name}.shift", np.arange(8, dtype=np.uint8))], direction="RIGHT")
    x = node("BitwiseAnd", [x.outputs[0], constant(f"{name}.one", np.array(1, np.uint8))])
    x = node("Cast", [x.outputs[0]], to=ir.DataType.INT32.value)
    places = step * 2 ** np.arange(bits, dtype=np.int32)[:, None, None]
    x = node("Mul", [x.outputs[0], constant(f"{name}.places", places)])
    x = node("ReduceSum", [x.outputs[0], constant(f"{name}.axis", np.array([0]))], keepdims=0)
    x = node("Reshape", [x.outputs[0], constant(f"{name}.flat", np.array([-1]))])
    ends = [constant(f"{name}.{end}", np.array([value])) for end, value in (("begin", 0), ("end", count))]
    x = node("Slice", [x.outputs[0], *ends])
    x = node("Sub", [x.outputs[0], constant(f"{name}.offset", np.array(offset, np.int32))])
    x = node("Reshape", [x.outputs[0], constant(f"{name}.shape", np.array(levels.shape))])
    node("Cast", [x.outputs[0]], to=ir.DataType.INT8.value)
    return made


def write_atomically(model: ir.Model, path: Path) -> None:
    """Write one file beside its final place, then rename: a reader never sees half a file.

    Raises:
        UserError: the folder is missing, or the model exceeds the 2 GB that a single ONNX file may hold.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} must exist; make it, or export to another one")
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if size > PROTOBUF_LIMIT:
        raise UserError(
            f"{path}: the model holds {size / 1e9:.1f} GB, must be at most 2 GB to fit one ONNX file; "
            "export a smaller one"
        )
    with replacing(path) as part:
        ir.save(model, part)
