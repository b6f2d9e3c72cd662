"""An attention module as the searches of `qat.decoding` see it: steps of torch that give and take NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qat.decoding.encoded import Encoded
from qat.decoding.steps import Memory, take_rows
from qat.layers.base import device_of
from qat.models.attention import AttentionModule
from qat.models.attention_decoder import DecoderState, Projected, first_state, step
from qat.models.attention_parts import language_model_step


class ModuleDecoder:
    """The decoder of a module in eval mode; see `DecoderStep`.

    Args:
        module: holds it.
    """

    def __init__(self, module: AttentionModule) -> None:
        self.module = module
        self.projected: Projected | None = None

    @torch.no_grad()
    def start(self, encoded: Encoded) -> Memory:
        """Takes up the utterance, which all further steps read."""
        keys, values = (tensor(self.module, item)[None] for item in (encoded.keys, encoded.values))
        valid = torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
        self.projected = Projected(keys, values, valid)
        return memory_of(first_state(self.module.decoder, self.projected))

    @torch.no_grad()
    def step(
        self, tokens: NDArray[Any], memory: Memory
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Memory]:
        """See `DecoderStep`."""
        assert self.projected is not None
        module, state = self.module, DecoderState(*(tensor(self.module, item) for item in memory))
        embedded = module.embedding(tensor(module, tokens))
        output, state = step(module.decoder, embedded, state, self.projected)
        memory = memory_of(state)
        return array(module.seq_lin(output)), memory[2], memory

    def select(self, memory: Memory, rows: NDArray[Any]) -> Memory:
        """See `DecoderStep`."""
        return take_rows(memory, rows)


class ModuleLanguageModel:
    """The language model of a module in eval mode; see `LanguageModelStep`.

    Args:
        module: has one.
    """

    def __init__(self, module: AttentionModule) -> None:
        self.module, self.lm = module, module.lm

    def start(self) -> Memory:
        """Zeros: hidden and cell `(1, L, H)`."""
        rnn: Any = self.lm.rnn.rnn  # type: ignore[union-attr]
        zeros = np.zeros((1, rnn.num_layers, rnn.hidden_size), np.float32)
        return zeros, zeros

    @torch.no_grad()
    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[np.float32], Memory]:
        """See `LanguageModelStep`."""
        hidden, cell = (tensor(self.module, item).transpose(0, 1).contiguous() for item in memory)
        logits, state = language_model_step(self.lm, tensor(self.module, tokens), (hidden, cell))
        return array(logits), tuple(array(item.transpose(0, 1)) for item in state)

    def select(self, memory: Memory, rows: NDArray[Any]) -> Memory:
        """See `LanguageModelStep`."""
        return take_rows(memory, rows)


@torch.no_grad()
def encode(module: AttentionModule, signal: NDArray[Any]) -> Encoded:
    """What the module's encoder says of one utterance, samples `(S,)`; the module is in eval mode."""
    samples = tensor(module, signal)[None]
    states = module.states(samples, torch.tensor([signal.size], device="cpu"))
    count = int(states.frames[0])
    parts = (states.hidden, states.projected.keys, states.projected.values, states.logits)
    return Encoded(*(array(item[0, :count]) for item in parts))


def memory_of(state: DecoderState) -> Memory:
    """Hidden `(N, L, H)`, context `(N, A)` and attention `(N, T)`."""
    return array(state.hidden), array(state.context), array(state.attention)


def tensor(module: AttentionModule, values: NDArray[Any]) -> Tensor:
    """An array where the module is."""
    made = torch.from_numpy(np.ascontiguousarray(values))  # on the CPU: moved below
    return made.to(device_of(module))


def array(values: Tensor) -> NDArray[np.float32]:
    """A tensor as float32."""
    return values.float().cpu().numpy()
