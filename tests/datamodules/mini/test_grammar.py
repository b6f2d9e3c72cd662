"""The grammar: seeded sentences within its limits; numbers as words."""

from __future__ import annotations

import pytest

from datamodules.mini import grammar
from datamodules.text import ALPHABET


def test_grammar_is_deterministic_and_respects_its_limits():
    first = grammar.generate(300, seed=5)
    assert first == grammar.generate(300, seed=5)
    assert first != grammar.generate(300, seed=6)
    assert len(set(first)) == 300
    for text in first:
        assert set(text) <= set(ALPHABET)
        assert grammar.MIN_WORDS <= len(text.split()) <= grammar.MAX_WORDS
    assert not set(grammar.generate(300, seed=5, exclude=first[:50])) & set(first[:50])


def test_grammar_vocabulary_and_exhaustion(monkeypatch):
    words = {word for text in grammar.generate(4000, seed=1) for word in text.split()}
    assert 250 <= len(words) <= 400
    monkeypatch.setattr(grammar, "TEMPLATES", {"only": (1.0, ("good morning",))})
    with pytest.raises(ValueError, match="only 1 of 3"):
        grammar.generate(3, seed=1)


@pytest.mark.parametrize(
    ("value", "spelled"),
    [(0, "zero"), (14, "fourteen"), (42, "forty two"), (100, "one hundred"), (215, "two hundred fifteen")],
)
def test_number_words(value, spelled):
    assert grammar.number_words(value) == spelled


@pytest.mark.parametrize(("value", "spelled"), [(1, "first"), (20, "twentieth"), (31, "thirty first")])
def test_ordinal_words(value, spelled):
    assert grammar.ordinal_words(value) == spelled
