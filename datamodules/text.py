"""The alphabet that every model spells with, and the one function that normalises text and the one that checks it."""

import re

from qat.system.errors import UserError

ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"
"""Space, apostrophe, a to z. A model's index 0 is the CTC blank, so `ALPHABET[i]` is index `i + 1`."""

_ALLOWED = frozenset(ALPHABET)


def normalise(text: str) -> str:
    """Lower-cases, strips, collapses white space and makes typographic apostrophes plain.

    Nothing is dropped: digits and punctuation stay, so that `check_text` can name them.

    >>> normalise("  IT\u2019S  A TEST ")
    "it's a test"
    """
    return re.sub(r"\s+", " ", text.replace("\u2019", "'")).strip().lower()


def check_text(text: str, where: str) -> str:
    """Returns `text`, or raises when a character lies outside the alphabet or no letter is left.

    Args:
        text: normalised text.
        where: names file and utterance for the error message.

    Raises:
        UserError: naming `where`, the character and the alphabet.

    >>> check_text("it's a test", "train.jsonl: a1")
    "it's a test"
    """
    for character in text:
        if character not in _ALLOWED:
            raise UserError(
                f"{where}: text {_shorten(text)!r} has the character {character!r}; must be a-z, apostrophe and "
                "space; spell out digits, leave out punctuation"
            )
    if not text.strip():
        raise UserError(f"{where}: text is empty; must be at least one letter")
    return text


def _shorten(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
