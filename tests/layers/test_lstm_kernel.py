"""The emulated recurrence over long utterances, against ONNX Runtime's kernel.

Both quantize the hidden state to 255 levels at every frame. Sigmoid and tanh of the two libraries differ in the last
bit, so now and then a value on the border of two levels falls to the other side, and from there on the states
differ by a fraction of one level. Up to that frame they agree to float32 rounding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.lstm import QuantLSTM
from qat.layers.lstm_kernel import reverse_frames, step
from qat.layers.state import calibrate_weights_, set_enabled_
from qat.numerics.affine import centred_levels, dynamic_range, quantize
from qat.system.hardware import cpu_has_vnni

FRAMES, INPUTS, CELLS = 150, 48, 64


def onnx_gates(rows: Tensor) -> Tensor:
    """PyTorch's i, f, g, o -> the standard's i, o, f, c."""
    i, f, g, o = rows.chunk(4)
    return torch.cat((i, o, f, g))


def kernel_inputs(layer: QuantLSTM, index: int) -> dict[str, np.ndarray]:
    """Initialisers of one layer's node."""
    directions = 2 if layer.bidirectional else 1
    suffixes = [f"l{index}", f"l{index}_reverse"][:directions]
    found: dict[str, list[Tensor]] = {"W": [], "R": [], "ws": [], "rs": [], "B": []}
    for suffix in suffixes:
        for matrix, key, scales in (("ih", "W", "ws"), ("hh", "R", "rs")):
            q = layer.weight_quantizers[f"weight_{matrix}_{suffix}"]
            weight = getattr(layer, f"weight_{matrix}_{suffix}")
            levels = quantize(weight, q.scale, None, q.quant_min, q.quant_max, 0)
            found[key].append(onnx_gates(levels).t())
            found[scales].append(onnx_gates(q.scale))
        biases = [onnx_gates(getattr(layer, f"bias_{matrix}_{suffix}").detach()) for matrix in ("ih", "hh")]
        found["B"].append(torch.cat(biases))
    arrays = {key: torch.stack(values).contiguous().numpy() for key, values in found.items()}
    return arrays | {"z": np.zeros((directions, 4 * layer.hidden_size), np.int8)}


def run_kernel(layer: QuantLSTM, x: Tensor, folder: Path) -> Tensor:
    """All layers by ONNX Runtime, `(1, T, I)` -> `(1, T, D H)`."""
    nodes, initialisers, current = [], [numpy_helper.from_array(np.array([0, 0, -1]), "flat")], "x"
    direction = "bidirectional" if layer.bidirectional else "forward"
    for index in range(layer.num_layers):
        arrays = kernel_inputs(layer, index)
        initialisers += [numpy_helper.from_array(value, f"{key}{index}") for key, value in arrays.items()]
        names = [
            f"{key}{index}" if key else "" for key in ("W", "R", "B", "", "", "", "", "ws", "z", "rs", "z")
        ]
        nodes += [
            helper.make_node(
                "DynamicQuantizeLSTM",
                [current, *names],
                [f"y{index}"],
                domain="com.microsoft",
                hidden_size=layer.hidden_size,
                direction=direction,
            ),
            helper.make_node("Transpose", [f"y{index}"], [f"t{index}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"t{index}", "flat"], [f"o{index}"]),
        ]
        current = f"o{index}"
    graph = helper.make_graph(
        nodes,
        "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", 1, layer.input_size])],
        [helper.make_tensor_value_info(current, TensorProto.FLOAT, None)],
        initialisers,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    out = session.run(None, {"x": x.transpose(0, 1).contiguous().numpy()})[0]
    return torch.from_numpy(out).transpose(0, 1)


@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("layers,both", [(1, False), (1, True), (2, True)])
@torch.no_grad()
def test_long_utterances_agree_with_the_kernel(
    layers: int, both: bool, reduce_range: bool, tmp_path: Path
) -> None:
    if not reduce_range and not cpu_has_vnni():
        pytest.skip("u8s8 products saturate on this CPU at 8 bits; that is what the reduced range is for")
    torch.manual_seed(0)
    plain = nn.LSTM(INPUTS, CELLS, layers, bidirectional=both, batch_first=True)
    for weight in plain.parameters():
        weight.mul_(2.0)
    layer = QuantLSTM.from_float(plain, LayerRecipe(reduce_range=reduce_range, weight_observer="max")).eval()
    calibrate_weights_(layer)
    set_enabled_(layer, True)
    x = torch.randn(1, FRAMES, INPUTS)
    error = (layer(x)[0] - run_kernel(layer, x, tmp_path)).abs()
    assert float(error.max()) < 1e-2  # a level of the state is 1/128 at most
    assert float(error.mean()) < 1e-3
    if layers == 1 and not both:
        assert float(error[:, :20].max()) < 1e-5  # before any state can have crossed a border


@torch.no_grad()
def test_a_step_takes_the_levels_of_the_dynamic_range() -> None:
    torch.manual_seed(0)
    cases = (torch.randn(2, 3, 8).tanh(), torch.rand(2, 3, 8), -torch.rand(2, 3, 8), torch.zeros(2, 3, 8))
    weight = torch.randint(-127, 128, (2, 8, 32)).float()
    scale, inputs, cell = torch.rand(2, 1, 32) * 0.01, torch.randn(2, 3, 32), torch.randn(2, 3, 8)
    for hidden in cases:
        unit, zero_point = dynamic_range(hidden.amin(2, keepdim=True), hidden.amax(2, keepdim=True))
        levels = centred_levels(hidden, unit, zero_point)
        i, f, o, g = (inputs + levels @ weight * (unit * scale)).chunk(4, dim=2)
        expected = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        found, state = step(inputs, weight, scale, hidden, cell)
        torch.testing.assert_close(state, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(found, o.sigmoid() * expected.tanh(), atol=1e-6, rtol=0)


def test_rows_reverse_within_their_own_length() -> None:
    x = torch.arange(12.0).view(2, 6, 1)
    out = reverse_frames(x, [6, 4])
    assert out[0, :, 0].tolist() == [5, 4, 3, 2, 1, 0]
    assert out[1, :, 0].tolist() == [9, 8, 7, 6, 10, 11]
    assert torch.equal(reverse_frames(out, [6, 4]), x)
