"""CTC prefix beam search (Graves 2012; Hannun 2014, arXiv 1408.2873) with a language model over the same tokens.

A prefix's score is the log probability of *all* its alignments, plus `lm_weight` times the language model's (with the
end of the sentence, once the last frame is read), plus `length_bonus` for each token. The language model is asked about
a prefix only where one of its continuations could enter the beam: at frames of blanks, not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qat.decoding.attention_search import Hypothesis
from qat.decoding.options import SearchSettings
from qat.decoding.scores import best_first, log_softmax
from qat.decoding.steps import LanguageModelStep, Memory

Array = NDArray[Any]


class PrefixTree:
    """Prefixes as nodes, 0 the empty one: a prefix that is dropped and found again is the same node."""

    def __init__(self) -> None:
        self.parents, self.tokens = [-1], [-1]
        self.children: dict[tuple[int, int], int] = {}

    def child(self, node: int, token: int) -> int:
        """The prefix `node` with one token more."""
        found = self.children.setdefault((node, token), len(self.parents))
        if found == len(self.parents):
            self.parents.append(node)
            self.tokens.append(token)
        return found

    def spell(self, node: int) -> list[int]:
        """The tokens of a prefix.

        >>> tree = PrefixTree()
        >>> tree.spell(tree.child(tree.child(0, 7), 5))
        [7, 5]
        """
        tokens = []
        while node:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]


@dataclass
class PrefixBeam:
    """The prefixes that are kept; every array's first axis `(N, ...)`.

    Args:
        nodes: of the tree `(N,)` int64.
        last: last token of each, that which starts a sentence for the empty prefix `(N,)` int64.
        blank: log probability of the alignments that end in a blank `(N,)` float64.
        label: log probability of those that end in the last token `(N,)` float64.
        prior: score of the language model and the bonus `(N,)` float64.
        following: weighted log probabilities of the next token `(N, V)`, of the rows that are `asked`.
        asked: whether the language model has read the last token `(N,)` bool.
        memory: of the language model; before the last token where not `asked`.
    """

    nodes: Array
    last: Array
    blank: Array
    label: Array
    prior: Array
    following: Array
    asked: Array
    memory: Memory

    def __len__(self) -> int:
        return len(self.nodes)


class PrefixBeamSearch:
    """Finds the most probable tokens of a CTC model's frames.

    Args:
        settings: `beam`, `lm_weight`, `lm_temperature`, `length_bonus`, `bos`, `eos` and `blank` are taken.
        language_model: over the same tokens; None, or a weight of 0, searches without it.
    """

    def __init__(self, settings: SearchSettings, language_model: LanguageModelStep | None = None) -> None:
        self.settings = settings
        self.language_model = language_model if settings.lm_weight else None

    def search(self, logits: Array) -> Hypothesis:
        """Logits or log posteriors `(T, V)` of the valid frames -> the best hypothesis."""
        return self.hypotheses(logits)[0]

    def hypotheses(self, logits: Array) -> list[Hypothesis]:
        """At most `beam` hypotheses of `(T, V)`, best first."""
        frames = log_softmax(np.asarray(logits, np.float64))
        tree, beam = PrefixTree(), self._start(frames.shape[1])
        for frame in frames:
            beam = self._read(beam, frame, tree)
        scores = np.logaddexp(beam.blank, beam.label) + beam.prior
        if self.language_model:
            self._ask_(beam, np.arange(len(beam)))
            scores = scores + beam.following[:, self.settings.eos]
        order = best_first(scores, len(beam))
        return [Hypothesis(tree.spell(int(beam.nodes[row])), float(scores[row])) for row in order]

    def _start(self, tokens: int) -> PrefixBeam:
        """The empty prefix."""
        memory = self.language_model.start() if self.language_model else ()
        return PrefixBeam(
            nodes=np.zeros(1, np.int64),
            last=np.full(1, self.settings.bos, np.int64),
            blank=np.zeros(1),
            label=np.full(1, -np.inf),
            prior=np.zeros(1),
            following=np.zeros((1, tokens if self.language_model else 0), np.float32),
            asked=np.zeros(1, bool),
            memory=tuple(item.copy() for item in memory),
        )

    def _read(self, beam: PrefixBeam, frame: Array, tree: PrefixTree) -> PrefixBeam:
        """The best prefixes after one frame of log probabilities `(V,)`."""
        total = np.logaddexp(beam.blank, beam.label)
        blank, label = total + frame[self.settings.blank], beam.label + frame[beam.last]
        parents, children = kept_parents(beam, tree)
        label[children] = np.logaddexp(
            label[children], grown(beam, total, frame, parents, beam.last[children])
        )
        stay = np.logaddexp(blank, label) + beam.prior
        rows, tokens = self._open(total + beam.prior, stay, frame)
        self._ask_(beam, rows)
        longer = grown(beam, total, frame, rows[:, None], tokens[None])
        known = np.isin(rows[:, None] * frame.size + tokens, parents * frame.size + beam.last[children])
        longer[known] = -np.inf
        prior = np.broadcast_to(beam.prior[rows, None] + self.settings.length_bonus, longer.shape)
        if self.language_model:
            prior = prior + beam.following[rows[:, None], tokens]
        scores = np.concatenate([stay, (longer + prior).ravel()])
        best = best_first(scores, self.settings.beam)
        best = np.sort(best[scores[best] > -np.inf])
        stays, new = best[best < len(beam)], best[best >= len(beam)] - len(beam)
        grown_rows, grown_tokens = np.divmod(new, max(1, tokens.size))
        kept = self._take(beam, np.concatenate([stays, rows[grown_rows]]))
        kept.blank = np.concatenate([blank[stays], np.full(new.size, -np.inf)])
        kept.label = np.concatenate([label[stays], longer.ravel()[new]])
        kept.prior = np.concatenate([beam.prior[stays], prior.ravel()[new]])
        for row, token in enumerate(tokens[grown_tokens].tolist(), start=stays.size):
            kept.nodes[row] = tree.child(int(kept.nodes[row]), token)
            kept.last[row], kept.asked[row] = token, False
        return kept

    def _open(self, scores: Array, stay: Array, frame: Array) -> tuple[Array, Array]:
        """Rows and tokens among whose pairs are all new prefixes that can enter the beam.

        Args:
            scores: of the prefixes before the frame `(N,)`.
            stay: of the prefixes after it `(N,)`: with a full beam, the worst of them is to be beaten.
            frame: log probabilities `(V,)`; a language model with a weight of 0 or more can only lower a score.
        """
        frame = frame.copy()
        frame[self.settings.blank] = -np.inf
        full = len(stay) == self.settings.beam and self.settings.lm_weight >= 0
        needed = stay.min() - self.settings.length_bonus if full else -np.inf
        tokens = np.flatnonzero((frame + scores.max() >= needed) & (frame > -np.inf))
        best_token = frame[tokens].max(initial=-np.inf)
        return np.flatnonzero((scores + best_token >= needed) & (scores + best_token > -np.inf)), tokens

    def _ask_(self, beam: PrefixBeam, rows: Array) -> None:
        """Let the language model read the last token of those `rows` where it has not."""
        rows = rows[~beam.asked[rows]]
        if not self.language_model or not rows.size:
            return
        logits, memory = self.language_model.step(
            beam.last[rows], self.language_model.select(beam.memory, rows)
        )
        log_probs = log_softmax(logits, self.settings.lm_temperature)
        beam.following[rows] = self.settings.lm_weight * log_probs
        for kept, new in zip(beam.memory, memory, strict=True):
            kept[rows] = new
        beam.asked[rows] = True

    def _take(self, beam: PrefixBeam, rows: Array) -> PrefixBeam:
        """The prefixes `rows`; what the language model said is not copied where nothing moves."""
        same = np.array_equal(rows, np.arange(len(beam)))
        return PrefixBeam(
            nodes=beam.nodes[rows],
            last=beam.last[rows],
            blank=beam.blank[rows],
            label=beam.label[rows],
            prior=beam.prior[rows],
            following=beam.following if same else beam.following[rows],
            asked=beam.asked[rows],
            memory=beam.memory
            if same or not self.language_model
            else self.language_model.select(beam.memory, rows),
        )


def kept_parents(beam: PrefixBeam, tree: PrefixTree) -> tuple[Array, Array]:
    """Rows of parent and child, of each pair that the beam holds."""
    row_of = {node: row for row, node in enumerate(beam.nodes.tolist())}
    pairs = [(row_of.get(tree.parents[node], -1), row) for node, row in row_of.items()]
    found = np.array([pair for pair in pairs if pair[0] >= 0], np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def grown(beam: PrefixBeam, total: Array, frame: Array, rows: Array, tokens: Array) -> Array:
    """Log probability of the alignments of prefixes `rows` that this frame lengthens by `tokens`, which broadcast.

    A token like the last one needs a blank between.
    """
    before = np.where(tokens == beam.last[rows], beam.blank[rows], total[rows])
    return before + frame[tokens]
