"""What compiled code reads: the weights of this step, with their gradients, and the seeds of its noise."""

from __future__ import annotations

import torch

from qat.layers.prepare import forget_step_, prepare_step_, weights_of
from qat.layers.quantizer import StepKey, step_seed
from qat.layers.swap import quant_layers, set_step_key_
from tests.layers.hosts import enabled, kinds


@kinds
def test_every_quantized_weight_is_left_ready_with_its_gradient(layer_kind: str) -> None:
    model, _ = enabled(layer_kind, 4, weight_observer="max", rounding="stochastic")
    key = StepKey(seed=1, step=2)
    set_step_key_(model.train(), key)
    (_, layer), *_ = quant_layers(model)
    weights = weights_of([model])
    assert [id(weight) for weight, _ in weights] == [id(weight) for _, weight, _ in layer.weights()]
    prepare_step_(weights, key)
    for weight, quantizer in weights:
        read = quantizer.prepared.read
        assert read is not None and torch.equal(read, quantizer(weight))
        read.sum().backward()
        assert weight.grad is not None and bool(weight.grad.any())
    forget_step_(weights)
    assert all(quantizer.prepared.read is None for _, quantizer in weights)


def test_the_seeds_of_the_step_are_written_for_activations_and_weights() -> None:
    key = StepKey(seed=1, step=2, rank=3)
    prepare_step_([], key)
    assert [int(item) for item in key.written] == [step_seed(1, 2, 3), step_seed(1, 2, -1)]
