"""Beam search over an attention decoder and a language model, by the rules of SpeechBrain's `S2SRNNBeamSearcher`.

One utterance at a time; the hypotheses that are still open go through the models together. The rules that differ from
a textbook search (all of SpeechBrain 1.x, so that a published model gives its published words):

- A blocked score is -1e20, not minus infinity: it can still be chosen where too few others are left.
- The end of a sentence is blocked where its log probability is at most `eos_threshold` times the best one: at the
  default of 1.5, the less certain the decoder is, the more room the end has. Only the decoder's own log probabilities
  decide, the language model's are added later.
- The coverage penalty is divided by the number of the step and added to every token of a hypothesis, in every step.
- Scores are float32; with length normalization they are divided by the number of tokens to rank, and multiplied back.
- The search ends when `beam` hypotheses have ended, whatever their scores, or after `max_ratio` times the frames.
- Then open hypotheses fill the list, best first; each loses its last token but keeps its score.

Two corners are left out, in which SpeechBrain's own result hangs on the order that `torch.topk` gives equal scores: an
utterance all of whose hypotheses are blocked by `max_attention_shift` (of equal ones the lowest token is taken here),
and a beam wider than the vocabulary, which SpeechBrain fills with hypotheses of minus infinity and counts as ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qat.decoding.encoded import Encoded
from qat.decoding.options import SearchSettings
from qat.decoding.scores import best_first, log_softmax
from qat.decoding.steps import DecoderStep, LanguageModelStep, Memory
from qat.system.errors import UserError

BLOCKED = np.float32(-1e20)


@dataclass(frozen=True)
class Hypothesis:
    """What a search found.

    Args:
        tokens: without the ones that start and end a sentence.
        score: the higher the better; natural logarithm, per token where the search normalizes by length.
    """

    tokens: list[int]
    score: float


@dataclass(frozen=True)
class Beam:
    """The open hypotheses, best first; every array's first axis `(N, ...)`.

    Args:
        tokens: of each hypothesis so far `(N, L)` int64.
        totals: summed scores `(N,)` float32.
        ranks: scores that hypotheses are ranked by `(N,)` float32.
        peaks: frame that each attended to most in the last step `(N,)` int64.
        coverage: attention that each frame has collected `(N, T)` float32.
        decoder: memory of the decoder.
        language_model: memory of the language model.
    """

    tokens: NDArray[Any]
    totals: NDArray[Any]
    ranks: NDArray[Any]
    peaks: NDArray[Any]
    coverage: NDArray[Any]
    decoder: Memory
    language_model: Memory


class AttentionSearch:
    """Finds the most probable tokens of an utterance.

    Args:
        settings: of the search.
        decoder: gives the next token's logits and where it attended to.
        language_model: over the same tokens; None, or a weight of 0, searches without it.

    Raises:
        UserError: settings that this search cannot follow.
    """

    def __init__(
        self, settings: SearchSettings, decoder: DecoderStep, language_model: LanguageModelStep | None = None
    ) -> None:
        if settings.ctc_weight:
            raise UserError(
                f"decoding.ctc_weight: {settings.ctc_weight}, must be 0 for method attention; "
                "set it to 0, or take method ctc_beam"
            )
        if settings.length_bonus and settings.length_normalization:
            raise UserError(
                f"decoding.length_bonus: {settings.length_bonus}, must be 0 where length_normalization is true; "
                "set one of them off"
            )
        self.settings = settings
        self.decoder = decoder
        self.language_model = language_model if settings.lm_weight else None

    def search(self, encoded: Encoded) -> Hypothesis:
        """The best hypothesis; of equal scores the one that ended first. Empty where no step is allowed."""
        found = self.hypotheses(encoded)
        return found[0] if found else Hypothesis([], 0.0)

    def hypotheses(self, encoded: Encoded) -> list[Hypothesis]:
        """At most `beam` hypotheses, best first."""
        settings = self.settings
        beam = self._start(encoded)
        ended: list[Hypothesis] = []
        for step in range(int(encoded.frames * settings.max_ratio)):
            beam, closed = self._step(beam, step, int(encoded.frames * settings.min_ratio))
            ended += closed[: settings.beam - len(ended)]
            if len(ended) == settings.beam or not len(beam.totals):
                break
        if beam.tokens.shape[1]:
            left = zip(beam.tokens, beam.ranks, strict=True)
            unfinished = [Hypothesis(tokens[:-1].tolist(), float(score)) for tokens, score in left]
            ended += unfinished[: settings.beam - len(ended)]
        return sorted(ended, key=lambda hypothesis: -hypothesis.score)

    def _start(self, encoded: Encoded) -> Beam:
        """One hypothesis without tokens."""
        return Beam(
            tokens=np.empty((1, 0), np.int64),
            totals=np.zeros(1, np.float32),
            ranks=np.zeros(1, np.float32),
            peaks=np.zeros(1, np.int64),
            coverage=np.zeros((1, encoded.frames), np.float32),
            decoder=self.decoder.start(encoded),
            language_model=self.language_model.start() if self.language_model else (),
        )

    def _step(self, beam: Beam, step: int, least_steps: int) -> tuple[Beam, list[Hypothesis]]:
        """Hypotheses one token longer: the open ones, and those that this token ended, both best first."""
        count = len(beam.totals)
        last = beam.tokens[:, -1].copy() if step else np.full(count, self.settings.bos, np.int64)
        logits, attention, decoder = self.decoder.step(last, beam.decoder)
        peaks = attention.argmax(axis=1)
        scores = self._decoder_scores(logits, peaks, beam.peaks, blocks_eos=step < least_steps)
        language_model = beam.language_model
        if self.language_model:
            logits, language_model = self.language_model.step(last, beam.language_model)
            log_probs = log_softmax(logits, self.settings.lm_temperature)
            log_probs *= self.settings.lm_weight
            scores += log_probs
        coverage = beam.coverage + attention
        self._add_row_scores_(scores, coverage, step + 1)
        scores += beam.totals[:, None]
        reached = replace(
            beam, peaks=peaks, coverage=coverage, decoder=decoder, language_model=language_model
        )
        return self._grow(reached, scores, np.float32(step + 1 if self.settings.length_normalization else 1))

    def _decoder_scores(
        self, logits: NDArray[Any], peaks: NDArray[Any], peaks_before: NDArray[Any], blocks_eos: bool
    ) -> NDArray[Any]:
        """Log probabilities `(N, V)` of the decoder, those that a rule forbids blocked."""
        settings = self.settings
        scores = log_softmax(logits, settings.temperature)
        if settings.max_attention_shift:
            ahead = peaks - peaks_before
            scores[(ahead > settings.max_attention_shift) | (ahead <= -settings.max_attention_shift)] = (
                BLOCKED
            )
        eos = scores[:, settings.eos]
        if blocks_eos:
            eos[:] = BLOCKED
        if settings.use_eos_threshold:
            eos[eos <= settings.eos_threshold * scores.max(axis=1)] = BLOCKED
        return scores

    def _add_row_scores_(self, scores: NDArray[Any], coverage: NDArray[Any], steps: int) -> None:
        """Add to `scores` `(N, V)` what does not depend on the token: the coverage penalty, the bonus for a token."""
        settings = self.settings
        if settings.coverage_weight:
            above = np.maximum(coverage - np.float32(settings.coverage_threshold), 0).sum(axis=1)
            scores -= (settings.coverage_weight * (above / steps))[:, None]
        if settings.length_bonus:
            scores += settings.length_bonus

    def _grow(self, beam: Beam, scores: NDArray[Any], length: np.float32) -> tuple[Beam, list[Hypothesis]]:
        """The best continuations of `beam` by summed `scores` `(N, V)`: the open ones and those that ended."""
        scores /= length
        best = best_first(scores.reshape(-1), self.settings.beam)
        rows, tokens = np.divmod(best, scores.shape[1])
        ranks = scores.reshape(-1)[best]
        ends = tokens == self.settings.eos
        closed = [
            Hypothesis(beam.tokens[row].tolist(), float(rank))
            for row, rank in zip(rows[ends], ranks[ends], strict=True)
        ]
        rows, tokens, ranks = rows[~ends], tokens[~ends], ranks[~ends]
        grown = Beam(
            tokens=np.concatenate([beam.tokens[rows], tokens[:, None]], axis=1),
            totals=ranks * length,
            ranks=ranks,
            peaks=beam.peaks[rows],
            coverage=beam.coverage[rows],
            decoder=self.decoder.select(beam.decoder, rows),
            language_model=self.language_model.select(beam.language_model, rows)
            if self.language_model
            else (),
        )
        return grown, closed
