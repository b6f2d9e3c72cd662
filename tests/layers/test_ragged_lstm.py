"""Training on padded input: the packed kernel's outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.layers.ragged_lstm import packed_lstm
from qat.layers.state import set_enabled_
from tests.layers.test_lstm import batch, lstm, pack, shapes


@shapes
@pytest.mark.parametrize("enabled", [None, False, True], ids=["plain", "disabled", "enabled"])
def test_training_on_padded_input_equals_the_packed_kernel(
    shape: dict[str, int], enabled: bool | None
) -> None:
    layer: nn.LSTM = lstm(shape).train()
    if enabled is None:
        plain = nn.LSTM(6, 8, batch_first=True, **shape)
        plain.load_state_dict(dict(layer.named_parameters()))
        layer = plain
    else:
        set_enabled_(layer, enabled)
    results = []
    for run in (lambda x: layer(pack(x))[0], lambda x: packed_lstm(layer, pack(x))):
        x = batch().requires_grad_()
        output = run(x)
        weights = [value for _, value in layer.named_parameters() if value.requires_grad]
        loss = (output.data * torch.arange(output.data.numel()).view_as(output.data)).sum()
        results.append((output.data, *torch.autograd.grad(loss, [x, *weights], allow_unused=True)))
        assert torch.equal(output.batch_sizes, pack(x).batch_sizes)
    for packed, padded in zip(*results, strict=True):
        if packed is None:
            assert padded is None
            continue
        torch.testing.assert_close(padded, packed, rtol=1e-4, atol=1e-4 * float(packed.detach().abs().max()))


def test_evaluation_runs_the_layer_itself() -> None:
    layer = lstm({"num_layers": 2, "bidirectional": True}).eval()
    assert torch.equal(packed_lstm(layer, pack(batch())).data, layer(pack(batch()))[0].data)
