"""A search in a few words, for the rows of a report."""

from __future__ import annotations

from qat.decoding.options import DecodingOptions, SearchSettings

NAMED = ("beam", "lm_weight")


def search_text(
    method: str, settings: SearchSettings, has_language_model: bool, options: DecodingOptions | None = None
) -> str:
    """Method, beam and language model, and what else a user has changed of the model's own search.

    Args:
        method: attention, ctc_greedy or ctc_beam.
        settings: in force.
        has_language_model: whether there is one to weigh.
        options: what the user gave.

    >>> search_text("attention", SearchSettings(beam=8, lm_weight=0.5), True)
    'attention, beam 8, lm 0.5'
    >>> changed = DecodingOptions(beam=2, temperature=1.25)
    >>> search_text("ctc_beam", changed.over(SearchSettings()), False, changed)
    'ctc_beam, beam 2, no lm, temperature 1.25'
    >>> search_text("ctc_greedy", SearchSettings(), True)
    'ctc_greedy'
    """
    if method == "ctc_greedy":
        return method
    weighed = has_language_model and settings.lm_weight
    parts = [method, f"beam {settings.beam}", f"lm {settings.lm_weight:g}" if weighed else "no lm"]
    changed = options.overrides() if options else {}
    return ", ".join([*parts, *(f"{key} {value}" for key, value in changed.items() if key not in NAMED)])
