"""The attention model: losses, quantization, checkpoints, and what a batch may not change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from speechbrain.nnet.losses import nll_loss

from datamodules.make_tokenizer import train as train_tokenizer
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.models.attention import AttentionModule, cross_entropy
from qat.models.crdnn import CRDNNModule
from qat.models.distillation import Teacher
from qat.models.loading import load_module, load_teacher_, save_module
from qat.recipe import Recipe
from qat.system.errors import UserError
from tests.models.attention_models import PIECES, SHAPE, attention_model, batch_of
from tests.models.conftest import norms_of_noise_, ragged_batch

FLOAT = {f"decoder.attn.{name}" for name in ("conv_loc", "mlp_loc", "mlp_attn")}


def calibrated(folder: Path, **options: Any) -> AttentionModule:
    """Quantized to 8 bits, its ranges from noise."""
    module = attention_model(folder, Recipe(preset="x"), **options)
    set_observing_(module, True)
    with torch.no_grad():
        for seed in range(2):
            module.posteriors(batch_of(1, seed))
    set_observing_(module, False)
    calibrate_weights_(module)
    finish_calibration_(module)
    module.quantize()
    return module


def quiet(module: AttentionModule) -> AttentionModule:
    """Without a trainer to log to."""
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return module


def test_the_cross_entropy_is_speechbrains() -> None:
    logits, labels = torch.randn(2, 4, 5), torch.tensor([[1, 2, 3, 0], [4, 0, -100, -100]])
    lengths = torch.tensor([1.0, 0.5])
    theirs = nll_loss(logits.log_softmax(-1), labels.clamp(min=0), lengths, label_smoothing=0.1)
    torch.testing.assert_close(cross_entropy(logits, labels, 0.1), theirs)


def test_every_part_has_a_gradient_from_the_joint_loss(tmp_path: Path) -> None:
    module = quiet(attention_model(tmp_path)).train()
    module.transcript_loss(batch_of(3)).backward()
    without = [name for name, item in module.named_parameters() if item.grad is None]
    assert without == []


def test_a_frozen_encoder_learns_nothing_and_keeps_its_statistics(tmp_path: Path) -> None:
    module = quiet(attention_model(tmp_path, freeze=["cnn", "rnn", "dnn"])).train()
    before = {key: value.clone() for key, value in module.encoder.state_dict().items()}
    module.transcript_loss(batch_of(3)).backward()
    assert all(item.grad is None for item in module.encoder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in module.encoder.state_dict().items())


def test_an_unknown_group_cannot_be_frozen(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="freeze: 'encoder', must be of cnn, rnn, dnn"):
        attention_model(tmp_path, freeze=["encoder"])


def test_the_encoder_starts_from_a_ctc_models(tmp_path: Path) -> None:
    sizes = {
        key: SHAPE[key] for key in ("n_mels", "cnn_channels", "rnn_layers", "rnn_neurons", "dnn_neurons")
    }
    save_module(CRDNNModule(**sizes, time_pooling_size=2), tmp_path / "ctc.ckpt")
    module = attention_model(tmp_path, init_encoder=str(tmp_path / "ctc.ckpt"))
    source = load_module(tmp_path / "ctc.ckpt")
    assert isinstance(source, CRDNNModule)
    for key, value in source.crdnn.state_dict().items():
        assert torch.equal(module.encoder.state_dict()[key], value)
    with pytest.raises(UserError, match="init_encoder does not fit: size mismatch for"):
        attention_model(tmp_path, init_encoder=str(tmp_path / "ctc.ckpt"), dnn_neurons=15)


def test_what_stays_float_is_named_with_its_reason(tmp_path: Path) -> None:
    module = attention_model(tmp_path, Recipe(preset="x"))
    assert {name for name, _ in module.swap_report.skipped} == FLOAT
    assert all(reason for _, reason in module.swap_report.skipped)
    alone = attention_model(tmp_path, Recipe(preset="x"), lm="float")
    lm = [name for name, reason in alone.swap_report.skipped if reason == "float by lm: float"]
    assert len(lm) == 4 and all(name.startswith("lm.") for name in lm)
    assert attention_model(tmp_path, lm="none").lm is None


def test_switched_off_is_the_float_model_bit_for_bit(tmp_path: Path) -> None:
    plain, quantized = attention_model(tmp_path), calibrated(tmp_path)
    quantized.quantize(False)
    with torch.no_grad():
        one, two = (model.posteriors(batch_of(1))[0] for model in (plain, quantized))
    assert torch.equal(one, two)


def test_a_training_step_with_quantizers_off_equals_the_plain_one(tmp_path: Path) -> None:
    plain, quantized = attention_model(tmp_path), calibrated(tmp_path)
    quantized.quantize(False)
    weights = []
    for model in (plain, quantized):
        optimizer = torch.optim.SGD(quiet(model).train().parameters(), 0.1)
        torch.manual_seed(3)
        model.transcript_loss(batch_of(2)).backward()
        optimizer.step()
        weights.append({key: value.detach().clone() for key, value in model.named_parameters()})
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_quantized_step_reaches_every_weight(tmp_path: Path, rounding: Any) -> None:
    module = attention_model(tmp_path, Recipe(preset="x", rounding=rounding))
    module.load_state_dict(calibrated(tmp_path).state_dict())
    module.quantize()
    quiet(module).train().transcript_loss(batch_of(2)).backward()
    assert all(item.grad is not None and item.grad.isfinite().all() for item in module.parameters())


def test_a_saved_model_loads_with_its_tokenizer_and_gives_the_same_logits(tmp_path: Path) -> None:
    module = calibrated(tmp_path)
    save_module(module, tmp_path / "model.ckpt")
    loaded = load_module(tmp_path / "model.ckpt")
    assert isinstance(loaded, AttentionModule)
    assert loaded.labels("turn the light on") == module.labels("turn the light on")
    with torch.no_grad():
        assert torch.equal(loaded.posteriors(batch_of(1))[0], module.posteriors(batch_of(1))[0])
    assert "tokenizer" not in loaded.hparams and "init_encoder" not in loaded.hparams


def test_tokens_of_an_utterance_do_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    module, batch = attention_model(tmp_path), batch_of(1)
    with torch.no_grad():
        states = module.states(batch.signal, batch.lengths)
        inputs, _, _ = module.targets([batch.texts[0]])
        beside, _, _ = module.targets([batch.texts[0], "set a timer for ten minutes"])
        pair = module.states(batch.signal.repeat(2, 1), batch.lengths.repeat(2))
        alone, together = module.forced(states, inputs), module.forced(pair, beside)
    torch.testing.assert_close(together[:1, : inputs.shape[1]], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalize", ["utterance", "global"])
@torch.no_grad()
def test_states_and_tokens_of_an_utterance_are_the_same_alone_and_in_a_batch(
    tmp_path: Path, normalize: str
) -> None:
    module = attention_model(tmp_path, normalize=normalize)
    norms_of_noise_(module)
    signal, lengths = ragged_batch()
    inputs, _, _ = module.targets(["turn the light on"] * len(lengths))
    together = module.states(signal, lengths)
    tokens = module.forced(together, inputs)
    for row, length in enumerate(lengths.tolist()):
        alone = module.states(signal[row : row + 1, :length], lengths[row : row + 1])
        count = int(together.frames[row])
        for one, all_ in (
            (alone.hidden, together.hidden),
            (alone.logits, together.logits),
            (alone.projected.keys, together.projected.keys),
        ):
            assert (one[0, :count] - all_[row, :count]).abs().max() < 1e-4, length
        assert (module.forced(alone, inputs[:1])[0] - tokens[row]).abs().max() < 1e-4, length


def test_text_comes_back_from_its_pieces(tmp_path: Path) -> None:
    module = attention_model(tmp_path)
    labels = module.labels("turn the light on")
    assert max(labels) < PIECES and module.blank not in labels
    frames = torch.tensor([label for item in labels for label in (item, item, 0)])
    assert module.labels_to_text(frames) == "turn the light on"


def test_the_greedy_search_ends_at_the_end_label(tmp_path: Path) -> None:
    module = attention_model(tmp_path)
    with torch.no_grad():
        module.seq_lin.w.bias[0] = 100.0
        states = module.states(batch_of(2).signal, batch_of(2).lengths)
    assert module.greedy(states) == ["", ""]


def test_a_teacher_of_other_labels_is_refused(tmp_path: Path) -> None:
    save_module(CRDNNModule(), tmp_path / "ctc.ckpt")
    (tmp_path / "other").mkdir()
    words = train_tokenizer(["one two three four five six"], 17)
    (tmp_path / "other.model").write_bytes(words)
    other = attention_model(tmp_path / "other", tokenizer=str(tmp_path / "other.model"), vocabulary_size=17)
    save_module(other, tmp_path / "other.ckpt")
    for name, count in (("ctc", 29), ("other", 17)):
        student = attention_model(tmp_path, teacher=str(tmp_path / f"{name}.ckpt"))
        with pytest.raises(UserError, match=f"teacher has {count} labels .*the student {PIECES}"):
            load_teacher_(student)


def test_a_teacher_equal_to_its_student_leaves_half_of_the_loss(tmp_path: Path) -> None:
    module = quiet(attention_model(tmp_path, teacher="t", distillation_weight=0.5))
    teacher = attention_model(tmp_path)
    found = Teacher(teacher, "t", teacher.symbols, module.symbols)
    with torch.no_grad():
        loss = module.distillation_loss(batch_of(2), found)
        torch.testing.assert_close(loss, 0.5 * module.transcript_loss(batch_of(2)), atol=1e-5, rtol=1e-5)
