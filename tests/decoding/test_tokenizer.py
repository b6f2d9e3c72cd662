"""Text to tokens and back."""

from __future__ import annotations

import copy
import sys

import pytest
import sentencepiece

from datamodules.make_tokenizer import train
from qat.decoding.tokenizer import CharacterTokenizer, SentencePieceTokenizer
from qat.system.errors import UserError

TEXTS = ["HELLO WORLD", "THE CAT SAT ON THE MAT", "HELLO CAT"]


@pytest.fixture(scope="module")
def model() -> bytes:
    return train(TEXTS, 18)


def test_subwords_are_those_of_sentencepiece(model: bytes) -> None:
    theirs, ours = sentencepiece.SentencePieceProcessor(model_proto=model), SentencePieceTokenizer(model)
    assert len(ours) == 18
    assert ours.symbols == [theirs.id_to_piece(token) for token in range(18)]
    for text in TEXTS:
        tokens = ours.encode(text)
        assert tokens == theirs.encode_as_ids(text)
        assert ours.decode(tokens) == text.lower(), "texts are in lower case here"
        assert ours.encode(text.lower()) == tokens
    assert ours.decode([]) == ""
    assert ours.encode("?") == [1, 0], "the unknown piece, at a word's start"


def test_a_subword_tokenizer_may_be_copied(model: bytes) -> None:
    tokenizer = SentencePieceTokenizer(model)
    assert copy.deepcopy(tokenizer).encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert tokenizer.model == model


@pytest.mark.parametrize("model", [b"", b"not a model", b"\x0a\x03abc"])
def test_what_is_no_sentencepiece_model_is_one_line(model: bytes) -> None:
    with pytest.raises(UserError) as error:
        SentencePieceTokenizer(model, "folder/tokenizer.ckpt")
    assert str(error.value).startswith(
        f"folder/tokenizer.ckpt: {len(model)} bytes, must be a SentencePiece model"
    )
    assert "\n" not in str(error.value)


def test_a_missing_package_is_one_line(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match="sentencepiece must be installed"):
        SentencePieceTokenizer(model)


def test_characters_go_to_their_labels_and_back() -> None:
    tokenizer = CharacterTokenizer(["<blank>", "<unk>", "'", " ", "A", "B"])
    assert tokenizer.encode("A' B?") == [4, 2, 3, 5, 1]
    assert tokenizer.decode([4, 2, 3, 5]) == "A' B"
    assert len(tokenizer) == len(tokenizer.symbols) == 6


def test_a_character_without_a_label_is_named() -> None:
    with pytest.raises(UserError, match="text: character 'C' must be one of ' AB'"):
        CharacterTokenizer(["<blank>", " ", "A", "B"]).encode("ABC")


def test_labels_differ() -> None:
    with pytest.raises(UserError, match="tokenizer: label 'A' is there twice, must be there once"):
        CharacterTokenizer(["A", "B", "A"])
