"""The same integer file in standard operators alone: `QuantizeLinear`/`DequantizeLinear` pairs around float operators.

An engine that knows the pairs (OpenVINO, TensorRT, ONNX Runtime) multiplies integers where they stand; any other
computes the same numbers in float. LSTMs are float LSTMs on dequantized weights. (ONNX operator set 21.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qat.runtime.loops import stored
from qat.runtime.packing import bits_needed
from qat.system.errors import UserError

Array = NDArray[Any]


MIDDLE = 128  # of unsigned 8-bit levels: what an exported signed quantizer has as its zero point


class Writer:
    """Adds nodes in place of one node.

    Args:
        graph: that it stands in.
        node: that is replaced.
        packs: weights of up to 4 bits are stored in 4.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node, packs: bool = True) -> None:
        self.graph, self.node, self.packs, self.nodes = graph, node, packs, list[ir.Node]()

    def add(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """The output of a new node, named after the replaced one."""
        name = f"{self.node.name}/{op_type}_{len(self.nodes)}"
        made = ir.node(op_type, list(inputs), attributes=attributes, name=name)
        made.outputs[0].name = f"{name}:0"
        self.nodes.append(made)
        return made.outputs[0]

    def store(self, name: str, array: Array) -> ir.Value:
        """A constant; the one of that name where it is stored already."""
        return stored(self.graph, name, array)

    def weight(self, name: str, levels: Array, scale: Array) -> ir.Value:
        """Dequantized weights: int4 where 4 bits hold them, else int8, with a scale for each item of the first axis."""
        small = self.packs and bits_needed(levels) <= 4
        stored = self.store(name, levels.astype(ml_dtypes.int4) if small else levels)
        if small:  # engines fold it: none multiplies int4 by int8
            stored = self.add("Cast", (stored,), to=ir.DataType.INT8.value)
        zeros = np.zeros(scale.shape, np.int8)
        inputs = (stored, self.store(f"{name}.scale", scale), self.store(f"{name}.zero", zeros))
        return self.add("DequantizeLinear", inputs, axis=0)

    def cast_weight(self, name: str, levels: Array, scale: Array) -> ir.Value:
        """As `weight`, by Cast and Mul, which engines fold to a constant: OpenVINO's LSTM takes nothing else.

        By way of int32: OpenVINO leaves one Cast in front of a Mul for its integer products to find.
        """
        small = self.packs and bits_needed(levels) <= 4
        stored = self.store(name, levels.astype(ml_dtypes.int4) if small else levels)
        whole = self.add("Cast", (stored,), to=ir.DataType.INT32.value)
        floats = self.add("Cast", (whole,), to=ir.DataType.FLOAT.value)
        return self.add("Mul", (floats, self.store(f"{name}.scale", scale.reshape(-1, 1))))

    def put(self, output: ir.Value) -> None:
        """Put the new nodes in the old one's place; `output` takes the place of its first output."""
        old = self.node.outputs[0]
        output.shape, output.type = old.shape, old.type
        self.graph.insert_before(self.node, self.nodes)
        if old.is_graph_output():  # callers know it by name
            old.name, output.name = f"{old.name}.old", old.name
        old.replace_all_uses_with(output, replace_graph_outputs=True)
        self.graph.remove(self.node, safe=True)


def value_of(item: ir.Value | None) -> Array:
    """A stored tensor."""
    assert item is not None and item.const_value is not None, item
    return item.const_value.numpy()


def add_bias(write: Writer, y: ir.Value, bias: ir.Value | None) -> ir.Value:
    """With the bias, if there is one."""
    return y if bias is None else write.add("Add", (y, bias))


def linear(write: Writer) -> ir.Value:
    """`MatMulIntegerToFloat`: levels times levels, both dequantized first.

    A matrix gets an axis more: ONNX Runtime makes a float Gemm of the product of two matrices and its bias, before it
    looks for integers.
    """
    x, weight, scale, weight_scale, zero_point, _, bias = pad_to(write.node.inputs, 7)
    assert x is not None and weight is not None
    is_matrix = x.shape is not None and len(x.shape) == 2
    first = write.store("portable.first", np.array([0])) if is_matrix else None
    levels = write.add("Unsqueeze", (x, first)) if is_matrix else x
    left = write.add("DequantizeLinear", (levels, scale, zero_point))
    stored = write.weight(f"{weight.name}.rows", value_of(weight).T.copy(), value_of(weight_scale))
    right = write.add("Transpose", (stored,), perm=[1, 0])
    y = add_bias(write, write.add("MatMul", (left, right)), bias)
    return write.add("Squeeze", (y, first)) if is_matrix else y


def frame_linear(write: Writer) -> ir.Value:
    """A linear layer with a range for each row: its zero points are taken off in float."""
    x, scale, zero_point, weight, weight_scale, bias = pad_to(write.node.inputs, 6)
    assert weight is not None
    levels, scales = value_of(weight).T.copy(), value_of(weight_scale)
    one, zero = (
        write.store("portable.one", np.array(1, np.float32)),
        write.store("portable.zero", np.array(0, np.uint8)),
    )
    left = write.add("DequantizeLinear", (x, one, zero))
    right = write.add("Transpose", (write.weight(f"{weight.name}.rows", levels, scales),), perm=[1, 0])
    sums = (levels.sum(1, dtype=np.int64) * scales).astype(np.float32)
    less = write.add("Mul", (zero_point, write.store(f"{weight.name}.sums", sums)))
    out = write.add("Mul", (write.add("Sub", (write.add("MatMul", (left, right)), less)), scale))
    return add_bias(write, out, bias)


def conv(write: Writer) -> ir.Value:
    """`QLinearConv`: a convolution of dequantized levels, quantized again. The bias is float, as TensorRT has it."""
    x, scale, zero_point, weight, weight_scale, _, output_scale, output_zero, bias = pad_to(
        write.node.inputs, 9
    )
    assert weight is not None
    left = write.add("DequantizeLinear", (x, scale, zero_point))
    scales = np.broadcast_to(value_of(weight_scale), value_of(weight).shape[:1]).copy()
    right = write.weight(f"{weight.name}.levels", value_of(weight), scales)
    inputs = [left, right]
    if bias is not None:
        unit = (value_of(scale).astype(np.float64) * scales).astype(np.float32)
        inputs.append(write.store(f"{bias.name}.float", value_of(bias).astype(np.float32) * unit))
    names = ("strides", "pads", "dilations")
    attributes: dict[str, Any] = {name: write.node.attributes[name].as_ints() for name in names}
    attributes["group"] = write.node.attributes["group"].as_int()
    y = write.add("Conv", inputs, **attributes)
    return write.add("QuantizeLinear", (y, output_scale, output_zero))


def lstm(write: Writer) -> ir.Value:
    """`DynamicQuantizeLSTM`: a float LSTM on dequantized weights."""
    inputs = pad_to(write.node.inputs, 12)
    x, bias, frames = inputs[0], inputs[3], inputs[4]
    matrices = []
    for place, scale in ((1, 8), (2, 10)):
        weight = inputs[place]
        assert weight is not None
        levels, scales = value_of(weight).transpose(0, 2, 1), value_of(inputs[scale])
        rows = write.cast_weight(f"{weight.name}.rows", levels.reshape(-1, levels.shape[2]).copy(), scales)
        shape = write.store(f"{weight.name}.shape", np.array(levels.shape))
        matrices.append(write.add("Reshape", (rows, shape)))
    hidden = write.node.attributes["hidden_size"].as_int()
    direction = write.node.attributes["direction"].as_string()
    return write.add("LSTM", (x, *matrices, bias, frames), hidden_size=hidden, direction=direction)


def quantize_rows(write: Writer) -> ir.Value:
    """`QuantizeLinear` with a scale for each row, which few engines know: the same levels by float arithmetic."""
    x, scale, zero_point = write.node.inputs
    zero = write.add("Cast", (zero_point,), to=ir.DataType.FLOAT.value)
    levels = write.add("Add", (write.add("Round", (write.add("Div", (x, scale)),)), zero))
    bounds = [
        write.store(f"portable.{name}", np.array(value, np.float32))
        for name, value in (("0", 0), ("255", 255))
    ]
    return write.add("Cast", (write.add("Clip", (levels, *bounds)),), to=ir.DataType.UINT8.value)


def refused(reason: str) -> Callable[[Writer], ir.Value]:
    """For a node that standard operators have no kernel for: raises `UserError` with the reason."""

    def refuse(write: Writer) -> ir.Value:
        raise UserError(f"export: {write.node.name} {reason}")

    return refuse


REPLACED: dict[str, Callable[[Writer], ir.Value]] = {
    "MatMulIntegerToFloat": linear,
    "FrameLinear": frame_linear,
    "QLinearConv": conv,
    "DynamicQuantizeLSTM": lstm,
    "MatMulNBits": refused(
        "runs on 4-bit weights by matmul_nbits, which ONNX Runtime alone has; a file of format qdq must have "
        "--qat.four_bit_linear integer"
    ),
    "GRULoop": refused(
        "is a loop of integer operators; a file of format qdq must be of a CRDNN or Wav2Vec2 with a CTC head"
    ),
}


def pad_to(inputs: Sequence[ir.Value | None], count: int) -> list[ir.Value | None]:
    """Inputs, with None for those at the end that are left out."""
    return [*inputs, *[None] * (count - len(inputs))]


def make_signed_(model: ir.Model) -> None:
    """Move unsigned levels around 128 to signed ones around 0, with the same real numbers, as TensorRT reads them."""
    for node in model.graph:
        offset = node.inputs[2] if node.op_type in ("QuantizeLinear", "DequantizeLinear") else None
        if offset is None or offset.const_value is None or offset.const_value.dtype != ir.DataType.UINT8:
            continue
        if not np.all(offset.const_value.numpy() == MIDDLE):
            raise UserError(
                f"export: {node.name} has unsigned levels, must be of a recipe with target tensorrt"
            )
        node.replace_input_with(2, stored(model.graph, "portable.signed", np.array(0, np.int8)))
        if node.op_type == "QuantizeLinear":
            node.outputs[0].type = ir.TensorType(ir.DataType.INT8)


def make_portable_(model: ir.Model, signed: bool = False) -> int:
    """Replace the operators that ONNX Runtime alone has, and those that few engines know.

    Args:
        model: as traced, weights not packed.
        signed: all levels are to be signed with a zero point of 0, and all weights int8, as TensorRT multiplies them.

    Returns:
        How many weights are stored in 4 bits.

    Raises:
        UserError: a node that standard operators have no kernel for.
    """
    graph = model.graph
    for node in list(graph):
        replace = REPLACED.get(node.op_type)
        if node.op_type == "QuantizeLinear" and "block_size" in node.attributes:
            replace = quantize_rows
        if replace is not None:
            write = Writer(graph, node, packs=not signed)
            write.put(replace(write))
    if signed:
        make_signed_(model)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    model.opset_imports.pop("com.microsoft", None)
    stored = (value.const_value for value in graph.initializers.values())
    return sum(
        tensor is not None and tensor.dtype == ir.DataType.INT4 and len(tensor.shape) > 1 for tensor in stored
    )
