"""What an engine makes of a file of standard operators: its nodes, and the layers that it computes in float."""

from __future__ import annotations

from torch import nn

from qat.evaluation.measurement import Nodes
from qat.layers.lstm import QuantLSTM
from qat.layers.swap import quant_layers, weighted_layers
from qat.runtime.formats import FileFormat
from qat.runtime.graph import owner_of
from qat.runtime.openvino_engine import OpenVinoEngine
from qat.runtime.openvino_nodes import RECURRENT, count_compiled_nodes

LSTM_REASON = "a file of format qdq holds a float LSTM on dequantized weights"
NODE_REASON = "the engine computes this node of a file of format qdq in float"


def engine_nodes(engine: OpenVinoEngine) -> Nodes:
    """Nodes of a compiled graph of OpenVINO.

    Recurrent nodes lose their names there: the coverage names their layers, which compute in float in such a file.
    """
    counts = count_compiled_nodes(engine)
    weights = {name: name for name, kind in counts.float_compute.items() if kind not in RECURRENT}
    return Nodes(counts.integer, counts.float_compute, weights)


def float_layers(module: nn.Module, nodes: Nodes, file_format: FileFormat) -> dict[str, str]:
    """Quantized layers that a file of standard operators computes in float, each with the reason."""
    if file_format != "qdq":
        return {}
    layers = [name for name, _ in weighted_layers(module)]
    found = {name: LSTM_REASON for name, layer in quant_layers(module) if isinstance(layer, QuantLSTM)}
    owners = (owner_of(node, layers) for node in nodes.float_weights)
    return found | {name: NODE_REASON for name in owners if name and name not in found}
