import pytest

from datamodules.text import ALPHABET, check_text, normalise
from qat.system.errors import UserError


def test_alphabet_is_space_apostrophe_and_letters():
    assert ALPHABET == " 'abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("text", ["HELLO  WORLD", " hello world\n", "hello\tworld", "Hello\u00a0World"])
def test_normalise_lowers_strips_and_collapses(text):
    assert normalise(text) == "hello world"


def test_normalise_is_idempotent_and_drops_nothing():
    assert normalise(normalise("Route 66, IT\u2019S far")) == "route 66, it's far"


@pytest.mark.parametrize("character", ["6", ",", "é", "-", "ß"])
def test_character_outside_the_alphabet_is_named(character):
    with pytest.raises(UserError) as error:
        check_text(f"a{character}b", "train.jsonl, line 3")
    assert str(error.value).startswith("train.jsonl, line 3: ")
    assert repr(character) in str(error.value) and "must be a-z" in str(error.value)
    assert "\n" not in str(error.value)


def test_text_without_letters_is_refused():
    with pytest.raises(UserError, match="x: text is empty"):
        check_text(" ", "x")
