"""What a model that OpenVINO has compiled computes on integers, read off its own execution graph."""

from __future__ import annotations

from collections.abc import Sequence

from qat.runtime.graph import FRONTEND, NodeCounts
from qat.runtime.openvino_engine import OpenVinoEngine

COMPUTES = {
    "Convolution",
    "FullyConnected",
    "MatMul",
    "LSTMSequence",
    "LSTMCell",
    "RNNSeq",
    "RNNCell",
    "Deconvolution",
}
RECURRENT = {"LSTMSequence", "LSTMCell", "RNNSeq", "RNNCell"}
INTEGERS = {"u8", "i8", "u4", "i4"}


def count_compiled_nodes(engine: OpenVinoEngine) -> NodeCounts:
    """The nodes that multiply and add, by the arithmetic that the compiled model says it runs them in."""
    counts = NodeCounts()
    for node in engine.compiled.get_runtime_model().get_ordered_ops():
        facts = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        kind = facts.get("layerType", "")
        if kind in COMPUTES:
            names = facts.get("originalLayersNames", "").split(",")
            group = counts_of(kind, facts.get("runtimePrecision", ""), names, counts)
            group[names[0] or node.get_friendly_name()] = kind
    return counts


def counts_of(kind: str, precision: str, names: Sequence[str], counts: NodeCounts) -> dict[str, str]:
    """The group that a node belongs to.

    Args:
        kind: as OpenVINO names it.
        precision: of its input.
        names: of the nodes of the file that it came from.
        counts: of a graph.

    >>> counts = NodeCounts()
    >>> counts_of("FullyConnected", "u8", ["head/MatMul"], counts) is counts.integer
    True
    >>> counts_of("MatMul", "f32", ["MatMul_1"], counts) is counts.float_matmul_without_weights
    True
    >>> counts_of("RNNSeq", "f32", ["LSTMSequence_1"], counts) is counts.float_compute
    True
    """
    if precision in INTEGERS:
        return counts.integer
    if any(name.startswith(FRONTEND) for name in names):
        return counts.frontend
    return counts.float_matmul_without_weights if kind == "MatMul" else counts.float_compute
