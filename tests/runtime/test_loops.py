"""Loops are written out as Scans of the same arithmetic."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from qat.layers.cell import gru_update
from qat.runtime.loops import Body, constant, expand_loops_
from qat.runtime.operators import GRU_LOOP, LOOPS

FRAMES, ROWS, HIDDEN = 4, 3, 5


def graph(with_bias: bool, name: str = "rnn/GRULoop") -> ir.Model:
    """One loop in float on the weights of a cell."""
    torch.manual_seed(0)
    cell = nn.GRUCell(1, HIDDEN)
    kind = ir.TensorType(ir.DataType.FLOAT)
    sums = ir.Value(name="sums", shape=ir.Shape([FRAMES, ROWS, 3 * HIDDEN]), type=kind)
    first = constant("first", np.zeros((ROWS, HIDDEN), np.float32))
    weight = constant("weight", cell.weight_hh.detach().T.contiguous().numpy())
    bias = constant("bias", cell.bias_hh.detach().numpy()) if with_bias else None
    node = ir.node(
        GRU_LOOP, [sums, first, weight, bias], {"low": 0, "high": 255}, domain=LOOPS, name=name, version=1
    )
    out = node.outputs[0]
    out.name, out.shape, out.type = "out", ir.Shape([FRAMES, ROWS, HIDDEN]), kind
    inner = ir.node("Identity", [out], name="end")
    end = inner.outputs[0]
    end.name, end.shape, end.type = "end", out.shape, kind
    kept = [item for item in (first, weight, bias) if item is not None]
    made = ir.Graph(
        [sums], [end], nodes=[node, inner], initializers=kept, opset_imports={"": 21, LOOPS: 1}, name="g"
    )
    return ir.Model(made, ir_version=10)


@pytest.mark.parametrize("with_bias", [True, False])
@torch.no_grad()
def test_a_scan_is_the_loop(with_bias: bool) -> None:
    model = graph(with_bias)
    assert expand_loops_(model) == 1 and expand_loops_(model) == 0
    assert [node.op_type for node in model.graph] == ["Scan", "Identity"]
    assert [node.name for node in model.graph][0] == "rnn/Scan" and LOOPS not in model.graph.opset_imports
    engine = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    sums = torch.randn(FRAMES, ROWS, 3 * HIDDEN)
    torch.manual_seed(0)
    cell, hidden, expected = nn.GRUCell(1, HIDDEN), torch.zeros(ROWS, HIDDEN), []
    for frame in sums:
        product = hidden @ cell.weight_hh.T + (cell.bias_hh if with_bias else 0)
        hidden = gru_update(frame, product, hidden)
        expected.append(hidden)
    (actual,) = engine.run(None, {"sums": sums.numpy()})
    torch.testing.assert_close(torch.from_numpy(actual), torch.stack(expected), atol=1e-5, rtol=0)


def test_nodes_and_values_of_a_body_have_names_of_their_own() -> None:
    body = Body("rnn")
    one, two = (body.constant(np.array(value, np.float32)) for value in (1, 2))
    body.one("Add", one, two)
    assert [node.name for node in body.nodes] == ["rnn/Constant_0", "rnn/Constant_1", "rnn/Add_2"]
    assert body.nodes[-1].outputs[0].name == "rnn/Add_2:0"
