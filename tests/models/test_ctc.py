"""Labels and greedy decoding."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from qat.recipe import Recipe
from qat.system.errors import UserError
from tests.conftest import build
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
