"""A folder with an attention decoder, opened by us and by SpeechBrain: the same states, tokens, scores and text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from speechbrain.inference.ASR import EncoderDecoderASR

from qat.decoding.attention_search import AttentionSearch
from qat.models.attention import AttentionModule
from qat.models.attention_parts import language_model_logits
from qat.models.attention_steps import ModuleDecoder, ModuleLanguageModel, encode
from tests.conftest import noise
from tests.models.speechbrain_folders import open_attention_folder, overfit_attention_, write_attention_folder

FOLDERS = ("random", "without_lm", "overfitted")
SHORT = ("CALL HOME", "TURN ON", "THE LIGHT")
Both = tuple[AttentionModule, EncoderDecoderASR]


def utterances() -> list[torch.Tensor]:
    """Noise that rises and falls, each at a pace of its own: `(1, S)`."""
    found = []
    for index, seconds in enumerate((0.8, 1.1, 1.53)):
        signal = noise(1, seconds, seed=index)
        pace = torch.arange(signal.shape[1]) / 800 * (index + 1)
        found.append(signal * pace.sin())
    return found


@pytest.fixture(scope="module", params=FOLDERS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Our module and SpeechBrain's, of one folder."""
    folder = tmp_path_factory.mktemp("folder")
    trained = request.param == "overfitted"
    objects = write_attention_folder(
        folder / "f",
        seed=2,
        language_model=request.param != "without_lm",
        sharpness=1.0 if trained else 4.0,
    )
    if trained:
        overfit_attention_(objects, folder / "f", [item[0] for item in utterances()], SHORT, steps=90)
    ours = AttentionModule(speechbrain=str(folder / "f")).eval()
    return ours, open_attention_folder(folder / "f", folder / "scratch")


@torch.no_grad()
def test_states_and_logits_are_speechbrains(both: Both) -> None:
    ours, theirs = both
    decoder, one = theirs.mods.decoder, torch.ones(1)
    for signal in utterances():
        states = ours.states(signal, torch.tensor([signal.shape[1]]))
        expected = theirs.encode_batch(signal, one)
        torch.testing.assert_close(states.hidden, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(states.logits, theirs.hparams.ctc_lin(expected), atol=1e-4, rtol=0)
        labels = torch.tensor([[0, 5, 17, 5, 39, 2]])
        forced = decoder.fc(decoder.dec(decoder.emb(labels), expected, one)[0])
        torch.testing.assert_close(ours.forced(states, labels), forced, atol=1e-4, rtol=0)
        if ours.lm is not None:
            logits = theirs.hparams.lm_model(labels)[0]
            torch.testing.assert_close(language_model_logits(ours.lm, labels), logits, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 8, 30])
def test_tokens_scores_and_text_are_speechbrains(both: Both, beam: int) -> None:
    ours, theirs = both
    searcher: Any = theirs.mods.decoder
    searcher.beam_size = beam
    language_model = None if ours.lm is None else ModuleLanguageModel(ours)
    search = AttentionSearch(replace(ours.settings, beam=beam), ModuleDecoder(ours), language_model)
    for signal in utterances():
        states = theirs.encode_batch(signal, torch.ones(1))
        tokens, _, scores, _ = searcher(states, torch.ones(1))
        found = search.search(encode(ours, signal[0].numpy()))
        assert found.tokens == tokens[0]
        assert abs(found.score - float(scores[0])) < 1e-4
        words = theirs.tokenizer.decode_ids(tokens[0])
        assert ours.tokenizer.pieces.decode(found.tokens) == words.lower()


def test_a_text_in_lower_case_has_the_labels_of_its_capitals(both: Both) -> None:
    ours, theirs = both
    for text in SHORT:
        labels = theirs.tokenizer.encode(text)
        assert ours.labels(text.lower()) == labels and ours.tokenizer.pieces.decode(labels) == text.lower()


@pytest.mark.parametrize("both", ["overfitted"], indirect=True)
def test_an_overfitted_folder_ends_its_hypotheses(both: Both) -> None:
    """Else no test above would see the end of a sentence."""
    ours, _ = both
    search = AttentionSearch(ours.settings, ModuleDecoder(ours), ModuleLanguageModel(ours))
    encoded = [encode(ours, signal[0].numpy()) for signal in utterances()]
    assert all(len(search.search(item).tokens) < item.states.shape[0] - 1 for item in encoded)
