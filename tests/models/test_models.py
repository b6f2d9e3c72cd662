"""Both models: padding, decoding, loss, folding, loading, the recipe's reach."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2ForCTC

from qat.layers.state import finish_calibration_, set_observing_
from qat.layers.swap import quant_layers, quantizers
from qat.methods.fold_batch_norm import fold_and_check
from qat.models.checkpoint import read_checkpoint
from qat.models.crdnn import CRDNNModule, normalise_features
from qat.models.loading import load_module, save_module
from qat.models.wav2vec2 import Wav2Vec2Module, masked_group_norm
from qat.recipe import Recipe
from qat.system.errors import UserError
from tests.conftest import TINY_WAV2VEC2, build, noise, write_hugging_face


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    signal, lengths = noise(3, 1.5), torch.tensor([24_000, 17_000, 9_000])
    for row, length in enumerate(lengths.tolist()):
        signal[row, length:] = 0
    return signal, lengths


@torch.no_grad()
def test_an_utterance_reads_the_same_alone_and_in_a_padded_batch(kind: str) -> None:
    model = build(kind).eval()
    signal, lengths = padded_batch()
    together, frames = model(signal, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, count = model(signal[row : row + 1, :length], lengths[row : row + 1])
        assert int(count) == int(frames[row]) == alone.shape[1]
        # SpeechBrain's convolutions mirror the last frames at the true end, where the batch has padding.
        edge = 4 if kind == "crdnn" else 0
        kept = int(count) - edge
        tolerance = 2e-2 if kind == "crdnn" else 1e-5  # the LSTM carries that edge backwards
        torch.testing.assert_close(together[row, :kept], alone[0, :kept], atol=tolerance, rtol=0)


@torch.no_grad()
def test_our_wav2vec2_forward_equals_hugging_face() -> None:
    model = build("wav2vec2").eval()
    assert isinstance(model, Wav2Vec2Module)
    signal, lengths = noise(2, 1.0), torch.tensor([16_000, 16_000])
    theirs = model.hf(model.features(signal, lengths)[0]).logits
    torch.testing.assert_close(model(signal, lengths)[0], theirs, atol=1e-5, rtol=0)  # other order of sums


def test_masked_group_norm_equals_group_norm_without_padding() -> None:
    norm, x = nn.GroupNorm(6, 6), torch.randn(2, 6, 50)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    torch.testing.assert_close(
        masked_group_norm(x, torch.tensor([50, 50]), norm), norm(x), atol=1e-5, rtol=1e-5
    )


def test_masked_group_norm_sums_squares_nearly_exactly() -> None:
    """What a long sum loses scales a whole channel and shows in the file as other levels: one row loses 1e-6."""
    x = torch.randn(1, 32, 4031, generator=torch.Generator().manual_seed(0))
    norm = nn.GroupNorm(32, 32)
    out = masked_group_norm(x, torch.tensor([4031]), norm)
    variance = x.double().var(2, correction=0)
    right = (variance / (variance + norm.eps)).sqrt()
    assert (out.double().std(2, correction=0) / right - 1).abs().max() < 2e-7


def test_masked_group_norm_ignores_padding() -> None:
    norm, x = nn.GroupNorm(6, 6), torch.randn(2, 6, 50)
    alone = masked_group_norm(x[1:, :, :20], torch.tensor([20]), norm)
    together = masked_group_norm(x, torch.tensor([50, 20]), norm)
    torch.testing.assert_close(together[1:, :, :20], alone, atol=1e-6, rtol=1e-6)


def test_the_crdnns_spec_augment_masks_in_training_only() -> None:
    model = build("crdnn", time_masks=2, frequency_masks=2, frequency_mask_channels=3)
    assert build("crdnn").masks == []
    seen: list[Tensor] = []
    model.crdnn.CNN.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].clone()))
    inputs, frames = torch.rand(16, 60, model.hparams.n_mels) + 1.0, torch.full((16,), 60)
    before = inputs.clone()
    torch.manual_seed(0)
    for _ in range(20):
        model.train().encode(inputs, frames)
    model.eval().encode(inputs, frames)
    assert torch.equal(inputs, before) and torch.equal(seen.pop(), before)
    silent = torch.stack(seen) == 0  # the inputs are above 1
    assert torch.equal(torch.stack(seen)[~silent], before.expand_as(silent)[~silent])
    spans, bands = silent.all(-1).sum(-1), silent.all(-2).sum(-1)  # frames and channels of each utterance
    assert 9 < spans.max() <= 2 * 9 and 2 < bands.max() <= 2 * 2 and spans.min() == bands.min() == 0
    with pytest.raises(UserError, match="time_mask_frames is 1; allowed are integers from 2"):
        build("crdnn", time_mask_frames=1)
    with pytest.raises(UserError, match="frequency_masks is -1; allowed are integers from 0"):
        build("crdnn", frequency_masks=-1)


def test_feature_normalisation_ignores_padding() -> None:
    x = torch.randn(2, 30, 5)
    alone, _ = normalise_features(x[1:, :20], torch.tensor([20]))
    together, _ = normalise_features(x, torch.tensor([30, 20]))
    torch.testing.assert_close(together[1:, :20], alone, atol=1e-6, rtol=0)
    assert together[1, 20:].abs().max() == 0


def test_greedy_decoding_merges_repeats_and_drops_blanks() -> None:
    model = build("crdnn")
    text = [" ", "h", "h", "<blank>", "e", "l", "<blank>", "l", "o", " ", " "]
    labels = torch.tensor([model.vocabulary.index(item) for item in text])
    assert model.labels_to_text(labels) == "hello"


def test_text_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="'7'.*vocabulary"):
        build("crdnn").labels("room 7")


def test_every_weight_is_quantized_by_default(kind: str) -> None:
    model = build(kind, Recipe(preset="deterministic"))
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM)
    plain = [name for name, layer in model.named_modules() if isinstance(layer, kinds)]
    assert [name for name, _ in quant_layers(model)] == plain
    assert not model.swap_report.skipped


def test_groups_cover_every_quantized_layer(kind: str) -> None:
    from fnmatch import fnmatch

    model = build(kind, Recipe(preset="deterministic"))
    for name, _ in quant_layers(model):
        owners = [g for g, patterns in model.groups.items() if any(fnmatch(name, p) for p in patterns)]
        assert len(owners) == 1, name


def test_folding_keeps_the_float_output_and_counts(kind: str) -> None:
    model = build(kind)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    line = fold_and_check(model)
    assert line.startswith("folded 2 of 2" if kind == "crdnn" else "folded 0 of 0")
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules())


def test_saved_module_loads_equal_with_weights_only(kind: str, tmp_path: Path) -> None:
    model = build(kind, Recipe(preset="ptq_max")).eval()
    model.fold_batch_norm()
    save_module(model, tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)
    loaded = load_module(tmp_path / "model.ckpt")
    signal, lengths = padded_batch()
    assert torch.equal(loaded(signal, lengths)[0], model(signal, lengths)[0])
    assert loaded.recipe == model.recipe


def test_corrupt_and_foreign_checkpoints_are_one_clear_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"broken\.ckpt: not a readable checkpoint"):
        read_checkpoint(broken)
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of speech-qat"):
        read_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.ckpt")


def test_starting_from_another_model_is_refused(tmp_path: Path) -> None:
    save_module(build("wav2vec2"), tmp_path / "w.ckpt")
    with pytest.raises(UserError, match="Wav2Vec2Module.*CRDNNModule"):
        build("crdnn", init_from=str(tmp_path / "w.ckpt"))
    save_module(build("crdnn", rnn_neurons=10), tmp_path / "c.ckpt")
    with pytest.raises(UserError, match=r"c\.ckpt: init_from does not fit"):
        build("crdnn", init_from=str(tmp_path / "c.ckpt"))


def test_float_start_gives_the_quantized_model_the_same_function(kind: str, tmp_path: Path) -> None:
    model = build(kind).eval()
    save_module(model, tmp_path / "float.ckpt")
    torch.manual_seed(99)
    arguments = {"init_from": str(tmp_path / "float.ckpt")}
    quantized = build(kind, Recipe(preset="stochastic"), **arguments).eval()
    signal, lengths = padded_batch()
    assert torch.equal(quantized(signal, lengths)[0], model(signal, lengths)[0])


def test_wav2vec2_reads_a_hugging_face_folder_with_its_processor(tmp_path: Path) -> None:
    letters = write_hugging_face(tmp_path)
    model = Wav2Vec2Module(pretrained=str(tmp_path)).eval()
    assert model.vocabulary[: len(letters)] == letters and model.blank == 0
    assert model.labels("to be") == [letters.index(c) for c in "TO|BE"]
    assert model.labels_to_text(torch.tensor(model.labels("to be"))) == "to be"
    theirs = Wav2Vec2ForCTC.from_pretrained(tmp_path).eval()
    signal, lengths = noise(1, 1.0), torch.tensor([16_000])
    with torch.no_grad():
        expected = theirs(model.features(signal, lengths)[0]).logits
        torch.testing.assert_close(model(signal, lengths)[0], expected, atol=1e-5, rtol=0)
        save_module(model, tmp_path / "m.ckpt")  # rebuilds without the folder
        assert torch.equal(load_module(tmp_path / "m.ckpt")(signal, lengths)[0], model(signal, lengths)[0])


def test_unknown_wav2vec2_field_and_folder_are_refused() -> None:
    with pytest.raises(UserError, match="'hiden_size' is not a field"):
        Wav2Vec2Module(config={**TINY_WAV2VEC2["config"], "hiden_size": 3})
    with pytest.raises(UserError, match="neither a local folder nor a hub model"):
        Wav2Vec2Module(pretrained="/nonexistent/folder")


def test_crdnn_lstm_may_run_in_one_direction() -> None:
    model = build("crdnn", rnn_bidirectional=False, rnn_layers=1)
    assert isinstance(model, CRDNNModule)
    assert model(noise(1, 0.5), torch.tensor([8_000]))[0].shape[-1] == len(model.vocabulary)


def test_spec_augment_masks_in_training_only_and_trains_its_embedding():
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


def test_ranges_before_gelu_reach_no_further_down_than_gelu_can_tell():
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


def test_errors_count_by_their_share_of_a_frame_where_loudness_still_matters():
    model = build("wav2vec2", Recipe(preset="ptq_max"))
    relative = [name for name, layer in quant_layers(model) if layer.relative_error]
    assert relative == [f"hf.wav2vec2.feature_extractor.conv_layers.{index}.conv" for index in range(7)]
    assert not any(
        layer.relative_error for _, layer in quant_layers(build("crdnn", Recipe(preset="ptq_max")))
    )
