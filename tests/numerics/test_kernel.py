"""Working in chunks changes no bit, whatever the layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qat.numerics import kernel as module
from qat.numerics.affine import fake_quantize
from qat.numerics.rounding import NoiseKey, uniform_noise

LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(1, 2),
    "channels last": lambda x: x[:, None].to(memory_format=torch.channels_last),
    "strided": lambda x: x[:, ::2],
    "expanded": lambda x: x[:1].expand(3, -1, -1),
    "empty": lambda x: x[:, :0],
}


def values() -> Tensor:
    return torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("noise", ["none", "floats", "bits", "key"])
@pytest.mark.parametrize("scales", ["tensor", "rows", "columns"])
def test_chunks_equal_the_whole(
    layout: str, noise: str, scales: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = LAYOUTS[layout](values())
    axis = {"tensor": None, "rows": 0, "columns": 1}[scales]
    count = 1 if axis is None else x.shape[axis]
    scale = torch.linspace(0.02, 0.1, count) if count else torch.ones(0)
    zero = (torch.arange(count, dtype=torch.int32) * 3) % 16
    drawn = {
        "none": None,
        "floats": uniform_noise(x.shape, NoiseKey.of(1)),
        "bits": NoiseKey.of(1).bits(x.shape),
        "key": NoiseKey.of(1),
    }[noise]
    found = []
    for size in (1 << 30, 64, 700):
        monkeypatch.setattr(module, "CHUNK_SIZE", size)
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        out = fake_quantize(leaf, scale, zero, 0, 15, axis, drawn)
        out.backward(torch.ones_like(out))
        with torch.no_grad():
            assert torch.equal(fake_quantize(x, scale, zero, 0, 15, axis, drawn), out)
        found.append((out.detach(), leaf.grad))
    if noise == "key":
        assert torch.equal(
            found[0][0], fake_quantize(x, scale, zero, 0, 15, axis, NoiseKey.of(1).bits(x.shape))
        )
    for out, grad in found[1:]:
        assert torch.equal(out, found[0][0]) and torch.equal(grad, found[0][1])
    assert out.shape == x.shape and (x.numel() == 0 or 0 < float(grad.mean()) < 1)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_chunks_equal_pytorch(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_SIZE", 100)
    x = LAYOUTS[layout](values())
    scale, zero = torch.tensor([0.07]), torch.tensor([9], dtype=torch.int32)
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 15)
    assert torch.equal(fake_quantize(x, scale, zero, 0, 15), expected)
    scale = torch.linspace(0.01, 0.2, 3)
    expected = torch.fake_quantize_per_channel_affine(x, scale, torch.zeros(3, dtype=torch.int32), 0, -7, 7)
    assert torch.equal(fake_quantize(x, scale, None, -7, 7, 0), expected)


def test_the_input_stays_untouched() -> None:
    x = values()
    before = x.clone()
    fake_quantize(x, torch.tensor([0.1]), None, -7, 7)
    assert torch.equal(x, before)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (3, 1, 1), (3, 40, 1)])
def test_any_shape_that_broadcasts_will_do_for_the_scale(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_SIZE", 100)
    x, scale = values(), torch.rand(shape) * 0.1 + 0.05
    expected = ((x / scale).round().add(3).clamp(0, 15) - 3) * scale
    out = fake_quantize(x, scale, torch.full(shape, 3.0), 0, 15)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
