"""Text to tokens and back: subwords of a SentencePiece model, or single characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qat.system.errors import UserError

UNKNOWN = "<unk>"


class Tokenizer(Protocol):
    """What turns text into a model's tokens and back."""

    @property
    def symbols(self) -> list[str]:
        """Text of each token."""

    def encode(self, text: str) -> list[int]:
        """Text -> tokens."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Tokens -> text."""

    def __len__(self) -> int: ...


class SentencePieceTokenizer:
    """Subwords (Kudo 2018, arXiv 1808.06226).

    Texts of this project are in lower case. Published models were trained on capitals: where pieces have no other
    letters, texts go in as capitals and come out in lower case.

    Args:
        model: contents of the model file.
        source: names it in messages.

    Raises:
        UserError: the package is not there, or the contents are not a SentencePiece model.
    """

    def __init__(self, model: bytes, source: str = "tokenizer") -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise UserError(
                f"{source}: the package sentencepiece must be installed; pip install sentencepiece"
            ) from None
        self.model = model
        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError:
            raise UserError(
                f"{source}: {len(model)} bytes, must be a SentencePiece model; give the file that the model was "
                "trained with"
            ) from None
        letters = "".join(piece for piece in self.symbols if not piece.startswith("<"))  # not <unk>
        self.capitals = letters != letters.lower() and letters == letters.upper()

    @property
    def symbols(self) -> list[str]:
        """Text of each piece; a lower one eighth block (U+2581) marks the start of a word."""
        return [self._processor.id_to_piece(token) for token in range(len(self))]

    def encode(self, text: str) -> list[int]:
        """Text -> pieces; what no piece covers is the unknown one."""
        return list(self._processor.encode_as_ids(text.upper() if self.capitals else text))

    def decode(self, tokens: Iterable[int]) -> str:
        """Pieces -> text."""
        text = str(self._processor.decode_ids([int(token) for token in tokens]))
        return text.lower() if self.capitals else text

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())


@dataclass(frozen=True)
class CharacterTokenizer:
    """One token for each character, as in the files of SpeechBrain's `CTCTextEncoder`.

    Args:
        labels: text of each token; special ones are longer than a character.

    >>> tokenizer = CharacterTokenizer(["<blank>", " ", "A", "B"])
    >>> tokenizer.encode("A B"), tokenizer.decode([3, 2])
    ([2, 1, 3], 'BA')
    """

    labels: Sequence[str]

    def __post_init__(self) -> None:
        twice = [label for index, label in enumerate(self.labels) if label in self.labels[:index]]
        if twice:
            raise UserError(
                f"tokenizer: label {twice[0]!r} is there twice, must be there once; correct the file"
            )

    @property
    def symbols(self) -> list[str]:
        """Text of each token."""
        return list(self.labels)

    def encode(self, text: str) -> list[int]:
        """Text -> tokens; a character that is no label is `<unk>` where there is one.

        Raises:
            UserError: naming the character, where there is not.
        """
        index = {label: token for token, label in enumerate(self.labels)}
        unknown = index.get(UNKNOWN)
        tokens = [index.get(character, unknown) for character in text]
        for character, token in zip(text, tokens, strict=True):
            if token is None:
                characters = "".join(label for label in self.labels if len(label) == 1)
                raise UserError(
                    f"text: character {character!r} must be one of {characters!r}; normalise the text"
                )
        return [token for token in tokens if token is not None]

    def decode(self, tokens: Iterable[int]) -> str:
        """Tokens -> text, joined as they are."""
        return "".join(self.labels[token] for token in tokens)

    def __len__(self) -> int:
        return len(self.labels)
