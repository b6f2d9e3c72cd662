"""What TensorRT would not run on integers, or not at all, in a file: `python -m qat.runtime.tensorrt FILE`.

The rules are those of its documentation ("Working with Quantized Types"): int8 and int4 alone, zero points of 0, scales
that are constants, weights scaled per channel. No TensorRT runs where this is developed: a file without a fault was not
tried there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

PAIR = ("QuantizeLinear", "DequantizeLinear")
KNOWN = {TensorProto.INT8, TensorProto.INT4}
COMPUTES = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


def faults(path: str | Path) -> list[str]:
    """One line for each node of a file that breaks a rule, and for each that multiplies without pairs before it."""
    graph = onnx.load(str(path)).graph
    stored = {item.name: item for item in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    found = []
    for node in graph.node:
        if node.domain:
            found.append(f"{node.name}: {node.domain}.{node.op_type} is no operator of ONNX")
        elif node.op_type == "Cast" and is_int4(stored.get(node.input[0])):
            found.append(f"{node.name}: Cast of INT4, must be INT8 (--qat.target tensorrt stores it so)")
        elif node.op_type in PAIR:
            found += [f"{node.name}: {reason}" for reason in pair_faults(node, stored)]
        elif node.op_type in COMPUTES:
            sides = [made_by.get(name) for name in node.input[:2]]
            if not all(comes_from_pair(side, made_by) for side in sides):
                found.append(
                    f"{node.name}: {node.op_type} has no DequantizeLinear on both sides: it computes in float"
                )
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            found.append(f"{node.name}: {node.op_type} computes in float")
    return found


def is_int4(item: TensorProto | None) -> bool:
    """Whether a stored tensor has 4 bits a value."""
    return item is not None and item.data_type == TensorProto.INT4


def comes_from_pair(node: onnx.NodeProto | None, made_by: dict[str, onnx.NodeProto]) -> bool:
    """Whether a value is dequantized levels, reordered or not."""
    while node is not None and node.op_type in ("Transpose", "Reshape"):
        node = made_by.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def pair_faults(node: onnx.NodeProto, stored: dict[str, TensorProto]) -> list[str]:
    """The rules that a node of a pair breaks."""
    found = []
    if node.input[1] not in stored:
        found.append("its scale must be a constant")
    zero = stored.get(node.input[2]) if len(node.input) > 2 else None
    levels = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
    kinds = {item.data_type for item in (zero, levels) if item is not None}
    if kinds - KNOWN:
        names = ", ".join(sorted(TensorProto.DataType.Name(kind) for kind in kinds - KNOWN))
        found.append(f"its levels must be INT8 or INT4, are {names}")
    elif zero is not None and np.any(numpy_helper.to_array(zero).astype(np.int32)):
        found.append("its zero point must be 0")
    return found


def main() -> None:
    """Print the faults of a file; exit status 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="of format qdq")
    found = faults(parser.parse_args().file)
    print("\n".join(found) or "no fault found")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
