"""Any of the ways to find tokens in what an attention model's encoder says, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from qat.decoding.attention_search import AttentionSearch, Hypothesis
from qat.decoding.ctc import merged
from qat.decoding.encoded import Encoded
from qat.decoding.options import Method, SearchSettings
from qat.decoding.prefix_beam import PrefixBeamSearch
from qat.decoding.steps import DecoderStep, LanguageModelStep
from qat.system.errors import UserError


def search_of(
    method: Method,
    settings: SearchSettings,
    decoder: DecoderStep,
    language_model: LanguageModelStep | None = None,
) -> Callable[[Encoded], Hypothesis]:
    """The search of a method: one utterance -> its best hypothesis.

    Args:
        method: attention, ctc_greedy or ctc_beam; the last two read the CTC head's logits.
        settings: of the search.
        decoder: what attention asks.
        language_model: over the same tokens; None searches without one.

    Raises:
        UserError: settings that the method cannot follow.
    """
    if method == "attention":
        return AttentionSearch(settings, decoder, language_model).search
    if method == "ctc_beam":
        beams = PrefixBeamSearch(settings, language_model)
        return lambda encoded: beams.search(logits_of(encoded, method))
    return lambda encoded: greedy(logits_of(encoded, method), settings.blank)


def logits_of(encoded: Encoded, method: str) -> NDArray[Any]:
    """Logits of the CTC head `(T, V)`.

    Raises:
        UserError: the model has none.
    """
    if encoded.logits is None:
        raise UserError(f"decoding.method: {method!r}, must be attention for a model without a CTC head")
    return encoded.logits


def greedy(logits: NDArray[Any], blank: int) -> Hypothesis:
    """The best label of each frame, repeats merged, blanks dropped; its score is the sum of the best logits.

    >>> import numpy as np
    >>> greedy(np.eye(3)[[1, 1, 0, 1, 2]], 0).tokens
    [1, 1, 2]
    """
    return Hypothesis(merged(logits.argmax(axis=-1).tolist(), blank), float(logits.max(axis=-1).sum()))
