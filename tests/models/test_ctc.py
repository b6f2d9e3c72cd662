"""Labels and greedy decoding."""

from __future__ import annotations

import pytest
import torch

from qat.system.errors import UserError
from tests.conftest import build


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
