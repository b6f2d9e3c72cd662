"""What every Wav2Vec2 shares: padding masked, SpecAugment, ranges before GELU."""

from __future__ import annotations

import torch

from qat.layers.state import finish_calibration_, set_observing_
from qat.layers.swap import quant_layers, quantizers
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.recipe import Recipe
from tests.conftest import TINY_WAV2VEC2, build, noise


def test_spec_augment_masks_in_training_only_and_trains_its_embedding() -> None:
    config = {
        **TINY_WAV2VEC2["config"],
        "apply_spec_augment": True,
        "mask_time_prob": 0.5,
        "mask_time_length": 2,
    }
    model = Wav2Vec2Module(config=config)
    signal, lengths = noise(2, 0.5), torch.tensor([8_000, 6_000])
    plain = build("wav2vec2").eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(signal, lengths)[0], plain(signal, lengths)[0])
    logits, frames = model.train()(signal, lengths)
    assert not torch.allclose(logits, plain(signal, lengths)[0])
    model.ctc_loss(logits, frames, ["ab", "c"]).backward()
    assert model.hf.wav2vec2.masked_spec_embed.grad.abs().sum() > 0
    assert not build("wav2vec2").hf.wav2vec2.masked_spec_embed.requires_grad
    short = torch.tensor([420])  # one frame: shorter than a mask
    assert model(noise(1, 420 / 16_000), short)[0].isfinite().all()


def test_ranges_before_gelu_reach_no_further_down_than_gelu_can_tell() -> None:
    model = build("wav2vec2", Recipe(preset="ptq_max", activation_observer="max"))
    for layer in model.hf.wav2vec2.feature_extractor.conv_layers:
        layer.conv.weight.data *= 20.0
    found = dict(quantizers(model))
    set_observing_(model, True)
    with torch.no_grad():
        model.eval()(noise(1, 0.5), torch.tensor([8_000]))
    outputs = {name: q for name, q in found.items() if name.endswith("output_quantizer")}
    assert sum(float(q.observer.minimum) < -3.5 for q in outputs.values()) > 2  # what the floor cuts off
    set_observing_(model, False)
    finish_calibration_(model)
    lowest = {name: float((q.quant_min - q.zero_point) * q.scale) for name, q in outputs.items()}
    groups = (
        "hf.wav2vec2.feature_extractor.conv_layers.0.conv.output_quantizer"  # GroupNorm follows, not GELU
    )
    assert lowest.pop(groups) < -3.1
    assert "hf.wav2vec2.encoder.pos_conv_embed.conv.output_quantizer" in lowest and len(lowest) == 7
    assert min(lowest.values()) > -3.1  # the zero point is a whole level
    gelu = torch.nn.functional.gelu(torch.linspace(-40.0, -3.0, 1_000))
    assert gelu.abs().max() < 0.0041


def test_errors_count_by_their_share_of_a_frame_where_loudness_still_matters() -> None:
    model = build("wav2vec2", Recipe(preset="ptq_max"))
    relative = [name for name, layer in quant_layers(model) if layer.relative_error]
    assert relative == [f"hf.wav2vec2.feature_extractor.conv_layers.{index}.conv" for index in range(7)]
    assert not any(
        layer.relative_error for _, layer in quant_layers(build("crdnn", Recipe(preset="ptq_max")))
    )
