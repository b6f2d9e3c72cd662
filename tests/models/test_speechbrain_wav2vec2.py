"""SpeechBrain's Wav2Vec2: equal to SpeechBrain itself, one utterance at a time; padding changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from speechbrain.inference.ASR import EncoderASR
from torch import nn
from torch.nn import functional as F

from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.models.loading import load_module, save_module
from qat.models.speechbrain_wav2vec2 import (
    FrameBatchNorm,
    SpeechBrainWav2Vec2Module,
    joint_layer_norm,
)
from qat.recipe import Recipe
from qat.system.errors import UserError
from tests.conftest import noise
from tests.models.conftest import padded_batch
from tests.models.speechbrain_folders import WAV2VEC2_CONFIG, open_wav2vec2_folder, write_wav2vec2_folder

FOLDERS: dict[str, dict[str, Any]] = {
    "published": {"old_weight_norm": True},
    "batch_norm": {"batch_norm": True},
    "base": {
        "output_norm": False,
        "feat_extract_norm": "group",
        "conv_bias": False,
        "do_stable_layer_norm": False,
    },
}


@pytest.fixture(scope="module", params=FOLDERS)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SpeechBrainWav2Vec2Module, EncoderASR]:
    """Our module and SpeechBrain's, of one folder."""
    folder = tmp_path_factory.mktemp("folder")
    write_wav2vec2_folder(folder / "f", **FOLDERS[request.param])
    ours = SpeechBrainWav2Vec2Module(speechbrain=str(folder / "f")).eval()
    return ours, open_wav2vec2_folder(folder / "f", folder / "scratch")


@torch.no_grad()
@pytest.mark.parametrize("seconds", [0.9, 1.31])
def test_states_logits_and_text_are_speechbrains(
    both: tuple[SpeechBrainWav2Vec2Module, EncoderASR], seconds: float
) -> None:
    ours, theirs = both
    signal, one = noise(1, seconds), torch.ones(1)
    lengths = torch.tensor([signal.shape[1]])
    logits, frames = ours(signal, lengths)
    expected = theirs.encode_batch(signal, one)
    torch.testing.assert_close(logits.log_softmax(-1), expected, atol=1e-4, rtol=0)
    hidden, frames = ours.extract(ours.features(signal, lengths)[0], lengths)
    states = ours.transform(ours.backbone.feature_projection(hidden.transpose(1, 2))[0], frames)
    if ours.options.output_norm:
        states = joint_layer_norm(states, frames)
    torch.testing.assert_close(states, theirs.mods.encoder.wav2vec2(signal, one), atol=1e-4, rtol=0)
    words, tokens = theirs.transcribe_batch(signal, one)
    best = torch.unique_consecutive(logits[0].argmax(-1))
    assert [label for label in best.tolist() if label != ours.blank] == tokens[0]
    assert ours.decode(logits, frames) == [words[0].lower()]


@torch.no_grad()
def test_an_utterance_is_the_same_alone_and_in_a_batch(
    both: tuple[SpeechBrainWav2Vec2Module, EncoderASR],
) -> None:
    ours, _ = both
    signal, lengths = padded_batch()
    together, frames = ours(signal, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, _ = ours(signal[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row : row + 1, : frames[row]], alone, atol=1e-5, rtol=0)


def test_a_checkpoint_rebuilds_without_the_folder(
    both: tuple[SpeechBrainWav2Vec2Module, EncoderASR], tmp_path: Path
) -> None:
    ours, _ = both
    assert "speechbrain" not in ours.hparams
    save_module(ours, tmp_path / "model.ckpt")
    signal, lengths = padded_batch()
    with torch.no_grad():
        assert torch.equal(load_module(tmp_path / "model.ckpt")(signal, lengths)[0], ours(signal, lengths)[0])


def tiny(recipe: Recipe | None = None, **options: Any) -> SpeechBrainWav2Vec2Module:
    torch.manual_seed(0)
    return SpeechBrainWav2Vec2Module(recipe, config=WAV2VEC2_CONFIG, head_neurons=[8, 6], **options)


def test_labels_read_and_write_lower_case_unless_cases_differ(wav2vec2_folder: Path) -> None:
    model = SpeechBrainWav2Vec2Module(speechbrain=str(wav2vec2_folder))
    assert model.labels_to_text(torch.tensor(model.labels("it's me"))) == "it's me"
    assert model.symbol(model.blank) == "" and model.symbol(1) == "<bos>"  # as SpeechBrain writes them
    assert tiny(vocabulary=["<blank>", "a", "A"]).symbols == ["", "a", "A"]


def test_the_head_is_in_its_group_and_every_layer_is_quantized() -> None:
    model = tiny(Recipe(preset="ptq_max"))
    swapped = set(model.swap_report.swapped)
    assert {"head.0.linear", "head.1.linear", "ctc_lin"} <= swapped
    assert {
        "wav2vec2.encoder.layers.1.attention.q_proj",
        "wav2vec2.feature_extractor.conv_layers.0.conv",
    } <= swapped
    signal, lengths = padded_batch()
    plain = tiny().eval()
    with torch.no_grad():
        assert torch.equal(model.eval()(signal, lengths)[0], plain(signal, lengths)[0])  # off is plain
        set_observing_(model, True)
        model(signal, lengths)
        set_observing_(model, False)
        finish_calibration_(model)
        calibrate_weights_(model)
        model.quantize()
        assert not torch.equal(model(signal, lengths)[0], plain(signal, lengths)[0])


def test_batch_norm_in_training_sees_no_padding_and_folds_in_evaluation() -> None:
    signal, lengths = padded_batch()
    seen = []
    for padding in (0, 8_000):
        model = tiny(head_batch_norm=True).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.wav2vec2.config.attention_dropout = 0.0
        for layer in model.wav2vec2.encoder.layers:
            layer.attention.dropout = 0.0
        logits, frames = model(F.pad(signal, (0, padding)), lengths)
        seen.append([item["norm"].running_var.clone() for item in map(dict_of, model.head)])
    torch.testing.assert_close(seen[0], seen[1], atol=1e-6, rtol=1e-5)
    model.ctc_loss(logits, frames, ["ab", "c", "d"]).backward()
    assert model.head[0].get_submodule("linear").weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        before = model(signal, lengths)[0]
        assert model.fold_batch_norm() == ["head.0.norm", "head.1.norm"]
        torch.testing.assert_close(model(signal, lengths)[0], before, atol=1e-5, rtol=0)


def dict_of(module: nn.Module) -> dict[str, Any]:
    """Children by name."""
    return dict(module.named_children())


def test_batch_norm_of_frames_is_the_same_packed_and_padded() -> None:
    norm, x = FrameBatchNorm(5).eval(), torch.randn(2, 7, 5)
    nn.init.normal_(norm.running_mean)
    torch.testing.assert_close(norm(x), norm(x.flatten(0, 1)).view(2, 7, 5))


def test_the_norm_of_an_utterance_is_layer_norm_over_time_and_width() -> None:
    x = torch.randn(3, 9, 4) * 3 + 1
    frames = torch.tensor([9, 5, 1])
    out = joint_layer_norm(x, frames)
    for row, count in enumerate(frames.tolist()):
        alone = x[row, :count]
        torch.testing.assert_close(out[row, :count], F.layer_norm(alone, alone.shape), atol=1e-6, rtol=1e-5)
        assert not out[row, count:].any()


def test_wrong_options_and_the_other_layout_are_one_line(attention_folder: Path) -> None:
    with pytest.raises(
        UserError, match="an attention model, must be a Wav2Vec2; use qat.models.AttentionModule"
    ):
        SpeechBrainWav2Vec2Module(speechbrain=str(attention_folder))
    with pytest.raises(UserError, match=r"head_neurons: \[\], must be at least one width"):
        SpeechBrainWav2Vec2Module(config=WAV2VEC2_CONFIG, head_neurons=[])
    with pytest.raises(UserError, match="head_dropout: 2, must be from 0 to 1"):
        tiny(head_dropout=2)
