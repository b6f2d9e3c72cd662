"""QuantLSTM: batching changes nothing, and ONNX Runtime's integer kernel agrees."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from qat.layers.lstm import QuantLSTM
from qat.layers.lstm_weights import on_dynamic_levels
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_, set_observing_
from qat.layers.swap import swap_
from qat.recipe import Recipe
from qat.runtime.lstm import IntegerLSTMLayer
from tests.pretend_gpu import PretendGPU

LENGTHS = torch.tensor([7, 13, 2, 10])
SHAPES = [
    {"num_layers": layers, "bidirectional": both, "bias": bias}
    for layers in (1, 2)
    for both in (False, True)
    for bias in (False, True)
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()))


def lstm(shape: dict[str, int], bits: int = 8, reduce_range: bool = True, **fields: object) -> QuantLSTM:
    """A calibrated, enabled layer with weights large enough to saturate some gates."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.LSTM(6, 8, batch_first=True, **shape)})
    for weight in model.parameters():
        nn.init.uniform_(weight, -0.9, 0.9)
    recipe = Recipe(
        preset="test", weight_bits=bits, activation_bits=bits, reduce_range=reduce_range, **{**fields}
    )
    swap_(model, recipe)
    layer = model["rnn"]
    assert isinstance(layer, QuantLSTM)
    calibrate_weights_(model)
    set_observing_(model, True)
    with torch.no_grad():
        layer(batch())
    set_observing_(model, False)
    finish_calibration_(model)
    set_enabled_(model, True)
    return layer.eval()


def batch() -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.randn(len(LENGTHS), int(LENGTHS.max()), 6) * torch.tensor([0.3, 1.0, 2.0, 5.0])[:, None, None]
    for row, length in enumerate(LENGTHS.tolist()):
        x[row, length:] = 0
    return x


def pack(x: torch.Tensor) -> PackedSequence:
    return pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)


@shapes
@pytest.mark.parametrize("bits", [4, 8])
@torch.no_grad()
def test_a_packed_batch_equals_each_utterance_alone(shape: dict[str, int], bits: int) -> None:
    layer, x = lstm(shape, bits), batch()
    packed, (hidden, cell) = layer(pack(x))
    together, lengths = pad_packed_sequence(packed, batch_first=True)
    assert torch.equal(lengths, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone, (last_hidden, last_cell) = layer(x[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], atol=0, rtol=0)
        torch.testing.assert_close(hidden[:, row], last_hidden[:, 0], atol=0, rtol=0)
        torch.testing.assert_close(cell[:, row], last_cell[:, 0], atol=0, rtol=0)
        assert together[row, length:].abs().sum() == 0


@shapes
@torch.no_grad()
def test_disabled_equals_the_float_lstm_bit_for_bit(shape: dict[str, int]) -> None:
    layer, x = lstm(shape), batch()
    set_enabled_(layer, False)
    plain = layer.to_float()
    assert type(plain) is nn.LSTM
    for item in (x, x[0]):
        assert torch.equal(layer(item)[0], plain(item)[0])
    assert torch.equal(layer(pack(x))[0].data, plain(pack(x))[0].data)


@shapes
@torch.no_grad()
def test_the_quantized_layer_stays_near_the_float_one(shape: dict[str, int]) -> None:
    layer, x = lstm(shape, reduce_range=False), batch()
    error = layer(x)[0] - layer.to_float()(x)[0]
    assert 0 < float(error.abs().mean()) < 0.02


@torch.no_grad()
def test_time_first_unbatched_and_batch_first_agree() -> None:
    layer, x = lstm({"num_layers": 2, "bidirectional": True}), batch()
    expected = layer(x)[0]
    torch.testing.assert_close(layer(x[0])[0], expected[0], atol=1e-6, rtol=0)
    layer.batch_first = False
    assert torch.equal(layer(x.transpose(0, 1))[0].transpose(0, 1), expected)


@torch.no_grad()
def test_a_sequence_cut_in_two_carries_its_state_over() -> None:
    layer = lstm({})
    x = batch()[1:2]
    x[:, [0, 6]] = torch.tensor([-3.0, 3, 0, 0, 0, 0])  # both halves span the same dynamic range
    x.clamp_(-3, 3)
    whole, last = layer(x)
    first, state = layer(x[:, :6])
    second, end = layer(x[:, 6:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(end[1], last[1], atol=1e-6, rtol=0)


@torch.no_grad()
def test_an_utterance_does_not_depend_on_its_neighbours_in_training_either() -> None:
    layer, x = lstm({"num_layers": 2, "bidirectional": True}).train(), batch()
    together = pad_packed_sequence(layer(pack(x))[0], batch_first=True)[0]
    for row, length in enumerate(LENGTHS.tolist()):
        alone = layer(x[row : row + 1, :length])[0][0]
        torch.testing.assert_close(together[row, :length], alone, atol=1e-5, rtol=0)


@shapes
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_gradient_reaches_all_weights_and_the_input(shape: dict[str, int], rounding: str) -> None:
    layer = lstm(shape, rounding=rounding, weight_observer="max").train()
    x = batch().requires_grad_()
    layer(pack(x))[0].data.square().sum().backward()
    for name, weight in layer.named_parameters():
        assert weight.grad is not None and bool((weight.grad != 0).any()), name
        assert bool(torch.isfinite(weight.grad).all()), name
    assert x.grad is not None and bool((x.grad != 0).any())


def kernel(layer: IntegerLSTMLayer, x: np.ndarray) -> np.ndarray:
    """ONNX Runtime's kernel on the integer weights of one layer: `(T, 1, I)` -> `(T, D, 1, H)`."""
    directions, hidden, _ = layer.recurrent.shape
    values = {
        "W": layer.weight,
        "R": layer.recurrent,
        "B": layer.bias,
        "Ws": layer.weight_scale,
        "Wz": torch.zeros(layer.weight_scale.shape, dtype=torch.int8),
        "Rs": layer.recurrent_scale,
        "Rz": torch.zeros(layer.recurrent_scale.shape, dtype=torch.int8),
    }
    node = helper.make_node(
        "DynamicQuantizeLSTM",
        ["X", "W", "R", "B", "", "", "", "", "Ws", "Wz", "Rs", "Rz"],
        ["Y"],
        domain="com.microsoft",
        hidden_size=hidden,
        direction="bidirectional" if directions == 2 else "forward",
    )
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, (len(x), directions, 1, hidden))],
        [
            numpy_helper.from_array(value.detach().contiguous().numpy(), name)
            for name, value in values.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        onnx.ModelProto.SerializeToString(model), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"X": x})[0]


@shapes
@torch.no_grad()
def test_evaluation_equals_the_integer_kernel_of_onnx_runtime(shape: dict[str, int]) -> None:
    layer, x = lstm(shape), batch()
    for row, length in enumerate(LENGTHS.tolist()):
        alone = x[row : row + 1, :length]
        data = alone.transpose(0, 1).contiguous().numpy()
        for index in range(layer.num_layers):
            out = kernel(IntegerLSTMLayer(layer, index), data)
            data = np.ascontiguousarray(out.transpose(0, 2, 1, 3)).reshape(length, 1, -1)
        expected = torch.from_numpy(data).transpose(0, 1)
        torch.testing.assert_close(layer(alone)[0], expected, atol=1e-3, rtol=0)


@shapes
@torch.no_grad()
def test_on_a_gpu_evaluation_is_training_rounded_to_nearest(shape: dict[str, int]) -> None:
    layer = lstm(shape)
    trained = layer.train()(pack(batch()))[0].data
    emulated = layer.eval()(pack(batch()))[0].data
    with PretendGPU():
        layer.to("cuda")
        evaluated = layer(pack(batch().to("cuda")))[0].data.cpu()
    assert torch.equal(evaluated, trained) and not torch.equal(evaluated, emulated)


@pytest.mark.parametrize("shape", SHAPES[-1:])
@torch.no_grad()
def test_on_a_gpu_ada_round_sees_the_states_that_evaluation_has_there(shape: dict[str, int]) -> None:
    layer, x = lstm(shape), batch()[1]
    with PretendGPU() as gpu:
        layer.to("cuda")
        rows = layer.states_beside(1, x.to("cuda"), True)
        assert not gpu.reads
        inputs = layer.stacked_layer(0, x.to("cuda")[None], True)
        assert torch.equal(rows[0, :, : inputs.shape[2]].cpu(), on_levels(inputs.cpu())[0])


def on_levels(x: torch.Tensor) -> torch.Tensor:
    """On unsigned 8 bits by its extremes."""
    return on_dynamic_levels(x, x.min(), x.max())
