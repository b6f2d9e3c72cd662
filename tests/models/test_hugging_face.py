"""Hugging Face's folders, processors and configuration fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Wav2Vec2ForCTC

from qat.models.loading import load_module, save_module
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.system.errors import UserError
from tests.conftest import TINY_WAV2VEC2, noise, write_hugging_face


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


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"do_normalize": False}, "model.do_normalize: False, must be True, as .* says; leave it out"),
        ({"blank_token": "_"}, "model.blank_token: '_', must be '<pad>', as"),
        ({"word_delimiter": "-"}, r"model.word_delimiter: '-', must be '\|', as"),
        ({"vocabulary": ["<blank>", "a"]}, "vocabulary: 2 labels, must be 31"),
    ],
)
def test_an_option_may_not_contradict_the_folder(
    options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    write_hugging_face(tmp_path)
    with pytest.raises(UserError, match=problem):
        Wav2Vec2Module(pretrained=str(tmp_path), **options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"vocabulary": ["a", "b"]}, "blank_token: '<blank>', must be one of the 2 labels"),
        ({"vocabulary": ["<blank>", "b", "b"]}, "vocabulary: 'b' twice, must be labels that differ"),
        ({"config": {"vocab_size": 40}}, "model.config: vocab_size: 40, must be 29, the number of labels"),
        ({"config": {"num_attention_heads": 5}}, "model.config: must describe .*divisible"),
    ],
)
def test_labels_and_sizes_that_do_not_fit_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Wav2Vec2Module(**options)
