"""Counting what an optimised ONNX graph computes on integers and what in float."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from qat.runtime.formats import ProviderName
from qat.runtime.gpu import providers_of
from qat.runtime.session import session_options

FRONTEND = "frontend/"
INTEGER = frozenset(
    (
        *("QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm"),
        *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits", "QAttention"),
    )
)
FLOAT = frozenset(
    (
        *("Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"),
        *("LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention"),
    )
)


@dataclass
class NodeCounts:
    """Nodes that multiply and add, by the arithmetic that they run: name -> operator.

    Names begin with the dotted name of the layer.

    Args:
        integer: on integer weights.
        float_compute: in float with a constant weight: a layer that is not quantized.
        float_matmul_without_weights: activation times activation (attention): nothing there to quantize in advance.
        frontend: float by design (filterbanks).
    """

    integer: dict[str, str] = field(default_factory=dict)
    float_compute: dict[str, str] = field(default_factory=dict)
    float_matmul_without_weights: dict[str, str] = field(default_factory=dict)
    frontend: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Counts under the names of a report row, and the names of all nodes below `names`."""
        groups = {key: dict(value) for key, value in vars(self).items()}
        return {**{key: len(value) for key, value in groups.items()}, "names": groups}


def count_nodes(model: onnx.ModelProto) -> NodeCounts:
    """Sort the compute nodes of an (optimised) graph, those of the bodies of loops included."""
    nodes = list(all_nodes(model.graph))
    weights, counts = constants(model.graph), NodeCounts()
    for index, node in enumerate(nodes):
        if node.op_type in INTEGER | FLOAT:
            group_of(node, weights, counts)[name_of(node, index)] = node.op_type
    return counts


def name_of(node: onnx.NodeProto, index: int) -> str:
    """Name of a node, without what a fusion with its activation puts before it; from its place where it has none."""
    return node.name.removeprefix("fused ") or f"{node.op_type}_{index}"


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph in topological order, those of a loop's body after the loop."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def constants(graph: onnx.GraphProto) -> set[str]:
    """Names of the matrices and kernels that no input of the graph can change: stored, or computed from stored ones.

    A stored matrix with computed rows beside it (Concat) is one too: the layer that it belongs to computes on it.
    """
    fixed = {item.name for item in graph.initializer}
    matrices = {item.name for item in graph.initializer if len(item.dims) >= 2}
    for node in all_nodes(graph):
        used = [name for name in node.input if name]
        known = bool(used) and all(name in fixed for name in used)
        if known:
            fixed.update(node.output)
        if (known or node.op_type == "Concat") and any(name in matrices for name in used):
            matrices.update(node.output)
    return matrices


def group_of(node: onnx.NodeProto, weights: set[str], counts: NodeCounts) -> dict[str, str]:
    """The group that a compute node belongs to; `weights` names the constant matrices and kernels of the graph."""
    if node.op_type in INTEGER:
        return counts.integer
    if FRONTEND in node.name:
        return counts.frontend
    weighted = any(name in weights for name in node.input)
    return counts.float_compute if weighted else counts.float_matmul_without_weights


def optimised_graph(path: str | Path, provider: ProviderName = "cpu") -> onnx.ModelProto:
    """The graph that ONNX Runtime really runs for a file: after all its fusions and constant folding.

    What TensorRT has compiled cannot be stored: its graphs are not to be had.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        options = session_options(1)
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4  # it warns that this graph is bound to this machine
        ort.InferenceSession(str(path), options, providers=providers_of(provider))
        return onnx.load(str(target))


def owner_of(name: str, layers: Iterable[str]) -> str:
    """The layer that a node or constant is named after; "" if none.

    >>> owner_of("fused net.1.conv/Conv_2", ["net.1", "net.1.conv"])
    'net.1.conv'
    >>> owner_of("net.10/MatMul", ["net.1"])
    ''
    """
    name = name.removeprefix("fused ")
    fitting = [layer for layer in layers if name == layer or name.startswith((f"{layer}/", f"{layer}."))]
    return max(fitting, key=len, default="")
