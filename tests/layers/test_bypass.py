"""Parents that read weights past their layers: fast paths are off, the rest is refused or named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.bypass import READERS, check_all_called, switch_off_fast_paths_, watch_calls
from qat.layers.state import set_enabled_
from qat.layers.swap import swap_
from qat.system.errors import UserError
from tests.layers.hosts import calibrated, recipe


def encoder_layer() -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("fields", [{}, {"activation_bits": None}, {"activation_granularity": "frame"}])
@torch.no_grad()
def test_a_transformer_in_evaluation_computes_on_its_quantized_layers(
    stacked: bool, fields: dict[str, str | None]
) -> None:
    def build() -> nn.Module:
        return nn.TransformerEncoder(encoder_layer(), 2).eval() if stacked else encoder_layer()

    plain, model, x = build(), build(), torch.randn(3, 5, 8)
    padded = torch.arange(5) >= torch.tensor([5, 4, 2])[:, None]
    report = swap_(model, recipe(2, **fields))
    assert len(report.swapped) == (4 if stacked else 2)
    calibrated(model, x)
    expected, off = plain(x, src_key_padding_mask=padded), model(x, src_key_padding_mask=padded)
    torch.testing.assert_close(off[~padded], expected[~padded], atol=1e-5, rtol=0)  # the fused kernel rounds
    set_enabled_(model, True)
    with watch_calls(model) as called:
        on = model(x, src_key_padding_mask=padded)
    assert (on - off)[~padded].abs().max() > 0.05  # two bits show
    assert called == set(report.swapped)
    with torch.enable_grad():
        slow = model(x, src_key_padding_mask=padded)
    assert (on - slow)[~padded].abs().max() < (off - slow)[~padded].abs().max()


def test_a_transformer_without_quantized_layers_keeps_its_fast_path() -> None:
    layer = encoder_layer()
    switch_off_fast_paths_(layer)
    assert layer.activation_relu_or_gelu == 1


@pytest.mark.parametrize("reader", READERS)
def test_layers_that_their_parent_reads_past_are_skipped_with_the_reason(reader: type[nn.Module]) -> None:
    parent = reader(8, 2)
    if isinstance(parent, nn.MultiheadAttention):
        parent.out_proj = nn.Linear(8, 8)  # type: ignore[assignment]
    report = swap_(nn.Sequential(parent, nn.Linear(8, 8)), recipe())
    reason = f"its parent {reader.__name__} reads its weights without calling it"
    assert report.swapped == ["1"] and reason in dict(report.skipped).values()


class Reader(nn.Module):
    """Computes on the weight of a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.called(x), self.read.weight)


def test_a_layer_that_was_never_called_is_named() -> None:
    model = Reader()
    swap_(model, recipe())
    with watch_calls(model) as called:
        model(torch.rand(2, 4))
    assert called == {"called"}
    with pytest.raises(UserError, match="^read: never called in calibration, must be called"):
        check_all_called(model, called)
    check_all_called(model, {"called", "read"})
    with watch_calls(model) as later:
        pass
    model(torch.rand(2, 4))
    assert later == set()
