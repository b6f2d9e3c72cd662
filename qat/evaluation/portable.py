"""What an engine makes of a file of standard operators: its nodes, and the layers that it computes in float."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from qat.decoding.recogniser import Recogniser
from qat.evaluation.graphs import add_, nodes_of
from qat.evaluation.measurement import Nodes
from qat.layers.lstm import QuantLSTM
from qat.layers.swap import quant_layers, weighted_layers
from qat.runtime.formats import FileFormat
from qat.runtime.gpu import NAMES
from qat.runtime.graph import owner_of
from qat.runtime.openvino_engine import OpenVinoEngine
from qat.runtime.openvino_nodes import RECURRENT, count_compiled_nodes

LSTM_REASON = "a file of format qdq holds a float LSTM on dequantized weights"
NODE_REASON = "the engine computes this node of a file of format qdq in float"
UNKNOWN_REASON = "TensorRT does not tell ONNX Runtime in which arithmetic it computes"
CUDA_NOTE = "provider cuda has no integer kernels: it computes in float on what the levels stand for"


def nodes_that_ran(recogniser: Recogniser, file: Path) -> Nodes:
    """Nodes of an exported file as its engine runs them; none where TensorRT has compiled them."""
    provider = getattr(recogniser, "provider", "")
    engines = {
        name: item for name, item in engines_of(recogniser).items() if isinstance(item, OpenVinoEngine)
    }
    if engines:
        return engine_nodes(engines)
    if provider == NAMES["tensorrt"]:
        return Nodes({}, {}, {})
    return nodes_of(file, "cuda" if provider == NAMES["cuda"] else "cpu")


def engines_of(recogniser: Recogniser) -> dict[str, Any]:
    """What runs each of its graphs that is open, by file name; one graph has none."""
    return getattr(recogniser, "engines", None) or {"": getattr(recogniser, "engine", None)}


def without_integers(recogniser: Recogniser) -> str:
    """Why no node counts as one on integers; empty where the engine multiplies integers, and says so."""
    provider = getattr(recogniser, "provider", "")
    return {NAMES["cuda"]: CUDA_NOTE, NAMES["tensorrt"]: UNKNOWN_REASON}.get(provider, "")


def engine_nodes(engines: Mapping[str, OpenVinoEngine]) -> Nodes:
    """Nodes of compiled graphs of OpenVINO.

    Recurrent nodes lose their names there: the coverage names their layers, which compute in float in such a file.
    """
    integer, in_float = dict[str, str](), dict[str, str]()
    for graph, engine in engines.items():
        counts = count_compiled_nodes(engine)
        add_(integer, counts.integer, graph)
        add_(in_float, counts.float_compute, graph)
    return Nodes(integer, in_float, {name: name for name, kind in in_float.items() if kind not in RECURRENT})


def float_layers(
    module: nn.Module, nodes: Nodes, file_format: FileFormat, without: str = ""
) -> dict[str, str]:
    """Quantized layers that a file of standard operators computes in float, each with the reason.

    Args:
        module: quantized.
        nodes: of its file.
        file_format: of its file.
        without: see `without_integers`.
    """
    if file_format != "qdq":
        return {}
    if without:
        return {name: without for name, _ in quant_layers(module)}
    layers = [name for name, _ in weighted_layers(module)]
    found = {name: LSTM_REASON for name, layer in quant_layers(module) if isinstance(layer, QuantLSTM)}
    owners = (owner_of(node, layers) for node in nodes.float_weights)
    return found | {name: NODE_REASON for name in owners if name and name not in found}
