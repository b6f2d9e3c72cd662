"""Labels and greedy decoding."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.recipe import Recipe
from qat.system.errors import UserError
from tests.conftest import build, noise
from tests.models.conftest import norms_of_noise_, ragged_batch
from tests.pretend_gpu import PretendGPU


def test_greedy_decoding_merges_repeats_and_drops_blanks() -> None:
    model = build("crdnn")
    text = [" ", "h", "h", "<blank>", "e", "l", "<blank>", "l", "o", " ", " "]
    labels = torch.tensor([model.vocabulary.index(item) for item in text])
    assert model.labels_to_text(labels) == "hello"


def test_text_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="'7'.*vocabulary"):
        build("crdnn").labels("room 7")


def test_training_without_the_teacher_that_the_options_name_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"the teacher gone\.ckpt is not loaded"):
        build("crdnn", teacher="gone.ckpt").on_fit_start()
    build("crdnn").on_fit_start()


def test_a_quantized_run_on_a_gpu_says_which_arithmetic_its_dev_error_rates_have(caplog: Any) -> None:
    for recipe, said in ((None, 0), (Recipe(preset="x"), 1)):
        module = build("crdnn", recipe)
        with PretendGPU(), caplog.at_level(logging.INFO):
            module.to("cuda:0").on_fit_start()
        assert caplog.text.count("dev error rates: in training's arithmetic on this GPU") == said
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    again = build("crdnn")
    again.on_load_checkpoint(checkpoint)
    assert again.validated_on == "cuda"


def test_a_run_on_a_cpu_has_nothing_to_say(caplog: Any) -> None:
    module = build("crdnn", Recipe(preset="x"))
    with caplog.at_level(logging.INFO):
        module.on_fit_start()
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    assert "dev error" not in caplog.text and "validated_on" not in checkpoint


@torch.no_grad()
def test_an_utterance_has_the_same_logits_alone_and_at_any_place_of_a_batch(kind: str) -> None:
    model = build(kind).eval()
    norms_of_noise_(model)
    for seed in range(2):
        signal, lengths = ragged_batch(seed)
        together, frames = model(signal, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone, count = model(signal[row : row + 1, :length], lengths[row : row + 1])
            assert int(count) == int(frames[row]) >= 1
            # float32: sums of a batch run in another order
            assert (alone[0, : int(count)] - together[row, : int(count)]).abs().max() < 1e-4, length


@torch.no_grad()
def test_a_quantized_utterance_has_the_same_labels_alone_and_in_a_batch(kind: str) -> None:
    model = build(kind, Recipe(preset="x")).eval()
    norms_of_noise_(model)
    set_observing_(model, True)
    model(noise(1, 3.0), torch.tensor([48_000]))
    set_observing_(model, False)
    calibrate_weights_(model)
    finish_calibration_(model)
    model.quantize()
    signal, lengths = ragged_batch()
    together, frames = model(signal, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, count = model(signal[row : row + 1, :length], lengths[row : row + 1])
        kept = slice(int(count))
        assert torch.equal(alone.argmax(-1)[0, kept], together.argmax(-1)[row, kept]), length
