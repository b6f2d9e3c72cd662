"""An exported folder as a recogniser: settings, methods, times, and utterances that do not know of each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qat.decoding.method import greedy
from qat.decoding.options import DecodingOptions
from qat.runtime.attention_session import AttentionSession, open_session
from qat.runtime.manifest import MANIFEST
from qat.runtime.session import Session
from qat.system.errors import UserError
from tests.conftest import noise
from tests.runtime.attention import ExportedAttention
from tests.runtime.conftest import Exported


@pytest.fixture(scope="module")
def session(attention: ExportedAttention) -> AttentionSession:
    """The integer folder, open."""
    return AttentionSession(attention.integer.path)


def signal(seconds: float, seed: int) -> Any:
    return noise(1, seconds, seed)[0].numpy()


def test_an_utterance_scores_the_same_alone_and_after_others(
    attention: ExportedAttention, session: AttentionSession
) -> None:
    utterances = [signal(0.5 + 0.2 * seed, seed) for seed in range(3)]
    found = [session.decode(session.encode(item)) for item in utterances]
    again = [session.decode(session.encode(item)) for item in utterances[::-1]][::-1]
    alone = AttentionSession(attention.integer.path)
    assert found == again and alone.decode(alone.encode(utterances[1])) == found[1]


def test_a_padded_batch_gives_what_its_utterances_give(attention: ExportedAttention) -> None:
    session, lengths = AttentionSession(attention.float.path), np.array([9_059, 16_000, 1_599, 160, 1])
    samples = noise(len(lengths), 1.0, 4).numpy()
    samples = np.where(np.arange(16_000) < lengths[:, None], samples, np.float32(0))
    *together, frames = session.run(samples, lengths)
    for row, length in enumerate(lengths):
        alone = session.encode(samples[row, :length])
        for name, values in zip(("states", "keys", "values", "logits"), together, strict=True):
            np.testing.assert_allclose(values[row, : frames[row]], getattr(alone, name), atol=1e-4)


def test_a_hypothesis_scores_the_same_whatever_stands_beside_it(session: AttentionSession) -> None:
    step, lm_step = session.decoder_step, session.lm_step
    assert lm_step is not None
    encoded, random = session.encode(signal(0.8, 1)), np.random.default_rng(0)
    rows, tokens = np.zeros(9, np.int64), random.integers(0, 30, 9)
    together = step.step(tokens, step.select(step.start(encoded), rows))
    with_others = lm_step.step(tokens, lm_step.select(lm_step.start(), rows))
    for row in (0, 4, 8):
        alone = step.step(tokens[row : row + 1], step.start(encoded))
        np.testing.assert_allclose(together[0][row], alone[0][0], atol=1e-6)  # the runtime's own sums
        np.testing.assert_allclose(together[1][row], alone[1][0], atol=1e-6)
        logits, _ = lm_step.step(tokens[row : row + 1], lm_step.start())
        np.testing.assert_allclose(with_others[0][row], logits[0], atol=1e-6)


def test_a_users_settings_go_before_the_models(attention: ExportedAttention) -> None:
    path = attention.float.path
    session = AttentionSession(path, decoding=DecodingOptions(beam=2, lm_weight=0.0))
    assert (session.settings.beam, session.settings.lm_weight) == (2, 0.0) and session.lm_step is None
    assert session.decoding == "attention, beam 2, no lm"
    session.transcribe(signal(0.5, 1))
    assert session.times_ms["lm_step"] == 0
    plain = AttentionSession(path)
    assert plain.settings == attention.module.settings and plain.decoding == "attention, beam 8, lm 0.5"


def test_each_part_of_the_last_transcription_is_timed(session: AttentionSession) -> None:
    session.transcribe(signal(0.5, 1))
    assert list(session.times_ms) == ["encoder", "decoder_step", "lm_step", "search"]
    assert all(value > 0 for value in session.times_ms.values())


@pytest.mark.parametrize("method", ["attention", "ctc_greedy", "ctc_beam"])
def test_every_method_gives_a_text_and_its_tokens(attention: ExportedAttention, method: Any) -> None:
    session = AttentionSession(attention.float.path, decoding=DecodingOptions(method=method))
    emission = session.emit(signal(0.7, 2))
    assert emission.tokens is None
    text = session.text_of(emission)
    assert emission.tokens is not None and text == session.tokenizer.decode(emission.tokens)
    assert text == session.transcribe(signal(0.7, 2)) and session.decoding.startswith(method)
    if method == "ctc_greedy":
        assert emission.tokens == greedy(emission.logits, 0).tokens
        assert np.array_equal(session.logits(signal(0.7, 2)), emission.logits)


@pytest.mark.parametrize("samples", [1, 300, 1_599, 2_000])
def test_very_short_signals_are_transcribed(session: AttentionSession, samples: int) -> None:
    emission = session.emit(np.full(samples, 0.1))
    assert len(emission.logits) >= 1 and isinstance(session.text_of(emission), str)


def test_bad_signals_are_refused(session: AttentionSession) -> None:
    for bad in (np.zeros(0), np.zeros((2, 100)), np.array([0.0, np.nan])):
        with pytest.raises(UserError, match="signal"):
            session.transcribe(bad)


def test_a_tokenizer_of_another_size_is_refused(attention: ExportedAttention, tmp_path: Path) -> None:
    shutil.copytree(attention.float.path, tmp_path / "model")
    path = tmp_path / "model" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocabulary_size": 31}))
    with pytest.raises(UserError, match="30 pieces, must be 31"):
        AttentionSession(tmp_path / "model")


def test_a_file_or_a_folder_is_opened(attention: ExportedAttention, crdnn: Exported) -> None:
    assert isinstance(open_session(attention.float.path), AttentionSession)
    file = crdnn.integer.path
    assert isinstance(open_session(file, 1, DecodingOptions(method="ctc_greedy")), Session)
    with pytest.raises(UserError, match="decoding.beam: must be left out for .*decoded greedily"):
        open_session(file, decoding=DecodingOptions(beam=2))
    with pytest.raises(UserError, match="decoding.method: must be left out"):
        open_session(file, decoding=DecodingOptions(method="attention"))
