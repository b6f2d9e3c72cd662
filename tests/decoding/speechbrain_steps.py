"""SpeechBrain's decoder and language model as steps over NumPy arrays, and its own search over the same modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from speechbrain.decoders.seq2seq import S2SRNNBeamSearcher
from speechbrain.lobes.models.RNNLM import RNNLM
from speechbrain.nnet.embedding import Embedding
from speechbrain.nnet.linear import Linear
from speechbrain.nnet.RNN import AttentionalRNNDecoder

from benchmarks.speechbrain_search import speechbrain_searcher
from qat.decoding.attention_search import Hypothesis
from qat.decoding.encoded import Encoded
from qat.decoding.options import SearchSettings
from qat.decoding.steps import Memory, take_rows

STATE, WIDTH, EMBEDDING = 12, 16, 8  # of the encoder, of decoder and attention, of embedded tokens


@dataclass(frozen=True)
class SpeechBrainParts:
    """A tiny attention model with random weights.

    Args:
        embedding, decoder, linear: of the recogniser.
        lm: the language model.
        tokens: size V of the vocabulary.
    """

    embedding: torch.nn.Module
    decoder: torch.nn.Module
    linear: torch.nn.Module
    lm: torch.nn.Module
    tokens: int


def random_parts(seed: int, tokens: int, peak: float = 1.0, end: float = 0.0) -> SpeechBrainParts:
    """Random weights; `peak` scales both output layers: the larger, the surer; `end` is added to token 0's logit."""
    torch.manual_seed(seed)
    parts = SpeechBrainParts(
        embedding=Embedding(num_embeddings=tokens, embedding_dim=EMBEDDING),
        decoder=AttentionalRNNDecoder(
            *("gru", "location", WIDTH, WIDTH, 1, STATE, EMBEDDING), channels=3, kernel_size=4, scaling=3.0
        ),
        linear=Linear(input_size=WIDTH, n_neurons=tokens),
        lm=RNNLM(tokens, EMBEDDING, rnn_neurons=WIDTH, dnn_neurons=WIDTH, rnn_layers=2, return_hidden=True),
        tokens=tokens,
    )
    with torch.no_grad():
        for weight in (parts.linear.w.weight, parts.lm.out.w.weight):
            weight *= peak
        parts.linear.w.bias[0] += end
        for weight in (*parts.decoder.rnn.parameters(), parts.decoder.attn.mlp_dec.weight):
            weight *= 3.0  # or states and attention would hardly depend on the tokens
        parts.decoder.attn.mlp_loc.weight *= 10.0
    for module in (parts.embedding, parts.decoder, parts.linear, parts.lm):
        module.eval()
    return parts


def random_encoded(seed: int, frames: int) -> Encoded:
    """Encoder states without a head; the steps below project them themselves."""
    states = np.random.default_rng(seed).standard_normal((frames, STATE)).astype(np.float32)
    return Encoded(states, np.empty((frames, 0), np.float32), np.empty((frames, 0), np.float32))


class SpeechBrainDecoderStep:
    """`AttentionalRNNDecoder` of one layer; the states of the utterance are broadcast, not repeated."""

    def __init__(self, parts: SpeechBrainParts) -> None:
        self.parts = parts
        self.states = torch.empty(0)
        self.keys = torch.empty(0)

    def start(self, encoded: Encoded) -> Memory:
        """Zero state and context, even attention."""
        self.states = torch.from_numpy(encoded.states)[None]
        with torch.no_grad():
            self.keys = self.parts.decoder.attn.mlp_enc(self.states)
        even = np.full((1, encoded.frames), 1 / encoded.frames, np.float32)
        return np.zeros((1, WIDTH), np.float32), np.zeros((1, WIDTH), np.float32), even

    @torch.no_grad()
    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[Any], NDArray[Any], Memory]:
        """See `DecoderStep`."""
        decoder, count = self.parts.decoder, len(tokens)
        hidden, context, attention = (torch.from_numpy(item) for item in memory)
        decoder.attn.precomputed_enc_h, decoder.attn.prev_attn = self.keys, attention
        decoder.attn.mask = torch.ones(self.states.shape[:2], dtype=torch.bool)
        states = self.states.expand(count, -1, -1)
        embedded = self.parts.embedding(torch.from_numpy(tokens))
        output, hidden, context, attention = decoder.forward_step(
            embedded, hidden[None], context, states, None
        )
        logits = self.parts.linear(output).numpy()
        return logits, attention.numpy(), (hidden[0].numpy(), context.numpy(), attention.numpy())

    def select(self, memory: Memory, rows: NDArray[Any]) -> Memory:
        """See `DecoderStep`."""
        return take_rows(memory, rows)


class SpeechBrainLanguageModelStep:
    """`RNNLM` whose hidden and cell states are `(N, layers, H)`."""

    def __init__(self, parts: SpeechBrainParts) -> None:
        self.lm = parts.lm

    def start(self) -> Memory:
        """Zeros."""
        layers = self.lm.rnn.rnn.num_layers
        return np.zeros((1, layers, WIDTH), np.float32), np.zeros((1, layers, WIDTH), np.float32)

    @torch.no_grad()
    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[Any], Memory]:
        """See `LanguageModelStep`."""
        hidden, cell = (torch.from_numpy(item).transpose(0, 1).contiguous() for item in memory)
        logits, state = self.lm(torch.from_numpy(tokens), hx=(hidden, cell))
        return logits.numpy(), tuple(item.transpose(0, 1).contiguous().numpy() for item in state)

    def select(self, memory: Memory, rows: NDArray[Any]) -> Memory:
        """See `LanguageModelStep`."""
        return take_rows(memory, rows)


def searcher(parts: SpeechBrainParts, settings: SearchSettings, topk: int = 1) -> S2SRNNBeamSearcher:
    """SpeechBrain's own search with the same settings."""
    return speechbrain_searcher(
        embedding=parts.embedding,
        decoder=parts.decoder,
        linear=parts.linear,
        lm=parts.lm,
        vocabulary_size=parts.tokens,
        settings=settings,
        topk=topk,
    )


def speechbrain_search(parts: SpeechBrainParts, settings: SearchSettings, encoded: Encoded) -> Hypothesis:
    """What SpeechBrain finds for one utterance."""
    search = searcher(parts, settings)
    with torch.no_grad():
        tokens, _, scores, _ = search(torch.from_numpy(encoded.states)[None], torch.ones(1))
    return Hypothesis(tokens[0], float(scores[0]))
