"""SpeechBrain's own beam search with the settings of ours: what benchmarks and tests compare with."""

from __future__ import annotations

from typing import Any

from speechbrain.decoders.scorer import CoverageScorer, LengthScorer, RNNLMScorer, ScorerBuilder
from speechbrain.decoders.seq2seq import S2SRNNBeamSearcher

from qat.decoding.options import SearchSettings


def speechbrain_searcher(
    *,
    embedding: Any,
    decoder: Any,
    linear: Any,
    lm: Any,
    vocabulary_size: int,
    settings: SearchSettings,
    topk: int = 1,
) -> S2SRNNBeamSearcher:
    """A search over SpeechBrain's own modules.

    Args:
        embedding, decoder, linear: of the recogniser.
        lm: the language model.
        vocabulary_size: tokens of both.
        settings: of the search.
        topk: hypotheses that it gives.
    """
    scorers: list[Any] = []
    weights: dict[str, float] = {}
    if settings.lm_weight:
        scorers.append(RNNLMScorer(lm, temperature=settings.lm_temperature))
        weights["rnnlm"] = settings.lm_weight
    if settings.coverage_weight:
        scorers.append(CoverageScorer(vocabulary_size, threshold=settings.coverage_threshold))
        weights["coverage"] = settings.coverage_weight
    if settings.length_bonus:
        scorers.append(LengthScorer(vocabulary_size))
        weights["length"] = settings.length_bonus
    return S2SRNNBeamSearcher(
        embedding=embedding,
        decoder=decoder,
        linear=linear,
        temperature=settings.temperature,
        bos_index=settings.bos,
        eos_index=settings.eos,
        min_decode_ratio=settings.min_ratio,
        max_decode_ratio=settings.max_ratio,
        beam_size=settings.beam,
        scorer=ScorerBuilder(full_scorers=scorers, weights=weights) if scorers else None,
        using_eos_threshold=settings.use_eos_threshold,
        eos_threshold=settings.eos_threshold,
        length_normalization=settings.length_normalization,
        using_max_attn_shift=bool(settings.max_attention_shift),
        max_attn_shift=settings.max_attention_shift,
        topk=topk,
    )
