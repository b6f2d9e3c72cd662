"""Steps of a search on exported graphs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qat.decoding.encoded import Encoded
from qat.decoding.steps import Memory, take_rows


class GraphStep:
    """What both steps share.

    Args:
        engine: of the graph, as `open_graph` gives it.

    A memory ends with a number for each hypothesis, which its children inherit: they share what follows from its
    states.

    Attributes:
        seconds: that the graph has computed; a caller may set it to 0.
    """

    def __init__(self, engine: Any) -> None:
        self.engine, self.seconds, self.numbered = engine, 0.0, 0
        self.outputs = [item.name for item in engine.get_outputs()]
        self.shapes = {item.name: item.shape for item in engine.get_inputs()}

    def run(self, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """All outputs, in the graph's order."""
        started = time.perf_counter()
        found = list(self.engine.run(self.outputs, inputs))
        self.seconds += time.perf_counter() - started
        return found

    def number(self, *states: NDArray[Any]) -> Memory:
        """A memory of new hypotheses."""
        first, self.numbered = self.numbered, self.numbered + len(states[0])
        return (*states, np.arange(first, self.numbered))

    def families(self, memory: Memory) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """For each hypothesis the row of its parent `(N,)`, and the states of the parents `(P, ...)`, each once."""
        _, first, parents = np.unique(memory[-1], return_index=True, return_inverse=True)
        return parents, [item[first] for item in memory[:-1]]

    def zeros(self, name: str) -> NDArray[Any]:
        """A first state of one hypothesis, of an input whose other axes are fixed."""
        return np.zeros((1, *self.shapes[name][1:]), np.float32)

    def select(self, memory: Memory, rows: NDArray[Any]) -> Memory:
        """See `DecoderStep`."""
        return take_rows(memory, rows)


class GraphDecoderStep(GraphStep):
    """`DecoderStep` on `decoder_step.onnx`; keys and values of the utterance lie here, not in the memory."""

    keys: NDArray[Any]
    values: NDArray[Any]

    def start(self, encoded: Encoded) -> Memory:
        """Zeros, and attention spread evenly over the frames."""
        self.keys, self.values = (np.ascontiguousarray(item) for item in (encoded.keys, encoded.values))
        attention = np.full((1, encoded.frames), np.float32(1) / np.float32(encoded.frames), np.float32)
        return self.number(self.zeros("hidden"), self.zeros("context"), attention)

    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[Any], NDArray[Any], Memory]:
        """See `DecoderStep`."""
        parents, (hidden, context, attention) = self.families(memory)
        logits, *after = self.run(
            tokens=tokens,
            parents=parents,
            hidden=hidden,
            context=context,
            attention=attention,
            keys=self.keys,
            values=self.values,
        )
        return logits, after[2], self.number(*after)


class GraphLanguageModelStep(GraphStep):
    """`LanguageModelStep` on `lm_step.onnx`."""

    def start(self) -> Memory:
        """Zeros."""
        return self.number(self.zeros("hidden"), self.zeros("cell"))

    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[Any], Memory]:
        """See `LanguageModelStep`."""
        parents, (hidden, cell) = self.families(memory)
        logits, *after = self.run(tokens=tokens, parents=parents, hidden=hidden, cell=cell)
        return logits, self.number(*after)
