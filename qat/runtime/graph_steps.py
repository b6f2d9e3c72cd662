"""Steps of a search on exported graphs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from qat.decoding.encoded import Encoded
from qat.decoding.steps import Memory, take_rows


class GraphStep:
    """What both steps share.

    Args:
        engine: of the graph.

    Attributes:
        seconds: that the graph has computed; a caller may set it to 0.
    """

    def __init__(self, engine: ort.InferenceSession) -> None:
        self.engine, self.seconds = engine, 0.0
        self.outputs = [item.name for item in engine.get_outputs()]
        self.shapes = {item.name: item.shape for item in engine.get_inputs()}

    def run(self, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """All outputs, in the graph's order."""
        started = time.perf_counter()
        found = list(self.engine.run(self.outputs, inputs))
        self.seconds += time.perf_counter() - started
        return found

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
        return self.zeros("hidden"), self.zeros("context"), attention

    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[Any], NDArray[Any], Memory]:
        """See `DecoderStep`."""
        hidden, context, attention = memory
        logits, *memory_after = self.run(
            tokens=tokens,
            hidden=hidden,
            context=context,
            attention=attention,
            keys=self.keys,
            values=self.values,
        )
        return logits, memory_after[2], tuple(memory_after)


class GraphLanguageModelStep(GraphStep):
    """`LanguageModelStep` on `lm_step.onnx`."""

    def start(self) -> Memory:
        """Zeros."""
        return self.zeros("hidden"), self.zeros("cell")

    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[Any], Memory]:
        """See `LanguageModelStep`."""
        hidden, cell = memory
        logits, *after = self.run(tokens=tokens, hidden=hidden, cell=cell)
        return logits, tuple(after)
