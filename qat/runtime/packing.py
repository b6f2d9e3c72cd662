"""An exported graph's last touches: readable node names, 4-bit storage, and one file written at once."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import ml_dtypes
import onnx_ir as ir

from qat.errors import UserError

FRONTEND = "frontend"
SCOPES = "pkg.torch.onnx.name_scopes"
PROTOBUF_LIMIT = 2**31 - 1


def name_nodes_(model: ir.Model, frontend: Collection[str]) -> None:
    """Name nodes, outputs and constants after the module that they come from: `crdnn.DNN.block_0.linear.w/MatMul`.

    Nodes of the modules named in `frontend` (filterbanks, float by design) get the prefix `frontend/`. The exporter's
    own notes, which hold stack traces and paths of the exporting machine, are dropped.
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


def module_path(scopes: str) -> str:
    """Innermost module in the exporter's list of scopes, whose last entry is the operator itself.

    >>> module_path("['', 'module', 'module.head', 'linear']")
    'head'
    """
    entries = [item.strip(" '") for item in scopes.strip("[]").split(",")]
    return entries[-2].removeprefix("module").removeprefix(".") if len(entries) > 1 else ""


def owner_of_constant(node: ir.Node) -> str:
    """Module that holds the first named constant of a node; empty if there is none."""
    names = [str(item.name) for item in node.inputs if item is not None and item.is_initializer()]
    return next((name.rpartition(".")[0] for name in names if "." in name), "")


def pack_four_bits_(model: ir.Model) -> int:
    """Store int8 weights whose levels fit 4 bits as packed int4 behind a Cast; the count of packed weights.

    ONNX Runtime has no 4-bit kernels for these operators: it unpacks at load and computes on int8.
    """
    packed = 0
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.INT8 or len(tensor.shape) < 2:
            continue
        levels = tensor.numpy()
        if levels.min() < -8 or levels.max() > 7 or not levels.any():
            continue
        small = ir.Value(name=f"{name}.packed", const_value=ir.tensor(levels.astype(ml_dtypes.int4)))
        small.shape, small.type = value.shape, ir.TensorType(ir.DataType.INT4)
        cast = ir.node("Cast", [small], attributes={"to": ir.DataType.INT8.value}, name=f"{name}/Unpack")
        model.graph.initializers.add(small)
        model.graph.insert_before(model.graph[0], cast)
        value.replace_all_uses_with(cast.outputs[0])
        cast.outputs[0].name = f"{name}.unpacked"
        del model.graph.initializers[name]
        packed += 1
    return packed


def write_atomically(model: ir.Model, path: Path) -> None:
    """Write one file beside its final place, then rename: a reader never sees half a file.

    Raises:
        UserError: the folder is missing, or the model exceeds the 2 GB that a single ONNX file may hold.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path}: cannot export there, the folder {path.parent} does not exist")
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if size > PROTOBUF_LIMIT:
        raise UserError(f"{path}: the model holds {size / 1e9:.1f} GB, and one ONNX file holds at most 2 GB")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        ir.save(model, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
