"""Steps of a search on graphs: first states, selection, and what they count."""

from __future__ import annotations

import numpy as np
import pytest

from qat.decoding.encoded import Encoded
from qat.runtime.graph_steps import GraphDecoderStep, GraphLanguageModelStep
from qat.runtime.session import open_engine
from tests.runtime.attention import ExportedAttention

FRAMES, STATE = 11, 14


@pytest.fixture
def decoder(attention: ExportedAttention) -> GraphDecoderStep:
    """Of the float folder."""
    return GraphDecoderStep(open_engine(attention.float.path / "decoder_step.onnx", 1))


def encoded(seed: int) -> Encoded:
    """Random states."""
    random = np.random.default_rng(seed)
    arrays = [random.standard_normal((FRAMES, width)).astype(np.float32) for width in (STATE, 8, 8)]
    return Encoded(*arrays)


def test_the_first_attention_is_even_and_the_first_states_are_zero(decoder: GraphDecoderStep) -> None:
    hidden, context, attention, _ = decoder.start(encoded(0))
    assert hidden.shape == (1, 1, 10) and context.shape == (1, 8) and not hidden.any() and not context.any()
    assert attention.shape == (1, FRAMES) and np.all(attention == np.float32(1 / FRAMES))


def test_each_utterance_has_its_own_keys(decoder: GraphDecoderStep) -> None:
    token = np.zeros(1, np.int64)
    one, two = (decoder.step(token, decoder.start(encoded(seed)))[0] for seed in (1, 2))
    again = decoder.step(token, decoder.start(encoded(1)))[0]
    assert np.array_equal(one, again) and not np.array_equal(one, two)


def test_memories_have_the_hypothesis_first_and_rows_are_selected(attention: ExportedAttention) -> None:
    step = GraphLanguageModelStep(open_engine(attention.float.path / "lm_step.onnx", 1))
    logits, memory = step.step(np.arange(3), step.select(step.start(), np.zeros(3, np.int64)))
    assert logits.shape == (3, 30) and [item.shape for item in memory] == [(3, 2, 10)] * 2 + [(3,)]
    chosen = step.select(memory, np.array([2, 2]))
    assert all(np.array_equal(new[0], old[2]) for new, old in zip(chosen, memory, strict=True))
    assert step.seconds > 0


def test_the_states_of_a_parent_are_computed_on_once(decoder: GraphDecoderStep) -> None:
    memory = decoder.select(decoder.start(encoded(0)), np.zeros(3, np.int64))
    parents, states = decoder.families(memory)
    assert parents.tolist() == [0, 0, 0] and [len(item) for item in states] == [1, 1, 1]
    _, _, memory = decoder.step(np.arange(3), memory)
    parents, (hidden, *_) = decoder.families(decoder.select(memory, np.array([2, 0, 2])))
    assert parents.tolist() == [1, 0, 1]
    assert np.array_equal(hidden, memory[0][[0, 2]])
