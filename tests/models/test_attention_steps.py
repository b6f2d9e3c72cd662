"""A module under the searches: its steps are those of teacher forcing."""

from pathlib import Path

import numpy as np
import torch

from qat.decoding.attention_search import AttentionSearch
from qat.decoding.options import SearchSettings
from qat.models.attention_parts import language_model_logits
from qat.models.attention_steps import ModuleDecoder, ModuleLanguageModel, encode
from tests.models.attention_models import attention_model, batch_of


@torch.no_grad()
def test_steps_along_a_text_give_the_logits_of_teacher_forcing(tmp_path: Path) -> None:
    module, batch = attention_model(tmp_path), batch_of(1)
    inputs, _, _ = module.targets(batch.texts)
    forced = module.forced(module.states(batch.signal, batch.lengths), inputs)[0].numpy()
    lm_forced = language_model_logits(module.lm, inputs)[0].numpy()
    decoder, lm = ModuleDecoder(module), ModuleLanguageModel(module)
    memory, lm_memory = decoder.start(encode(module, batch.signal[0].numpy())), lm.start()
    for place, label in enumerate(inputs[0].tolist()):
        rows = np.zeros(3, np.int64)  # three hypotheses that agree
        memory, lm_memory = decoder.select(memory, rows), lm.select(lm_memory, rows)
        tokens = np.full(3, label)
        logits, attention, memory = decoder.step(tokens, memory)
        lm_logits, lm_memory = lm.step(tokens, lm_memory)
        for row in range(3):
            np.testing.assert_allclose(logits[row], forced[place], atol=1e-5)
            np.testing.assert_allclose(lm_logits[row], lm_forced[place], atol=1e-5)
        np.testing.assert_allclose(attention.sum(1), 1.0, atol=1e-5)


def test_a_beam_of_one_finds_what_the_greedy_search_finds(tmp_path: Path) -> None:
    module, batch = attention_model(tmp_path), batch_of(1)
    settings = SearchSettings(beam=1, lm_weight=0.0, use_eos_threshold=False, length_normalization=False)
    found = AttentionSearch(settings, ModuleDecoder(module)).search(encode(module, batch.signal[0].numpy()))
    with torch.no_grad():
        states = module.states(batch.signal, batch.lengths)
    greedy = module.greedy(states)[0]  # of noise: it never ends, and the search drops the last piece then
    assert module.tokenizer.pieces.decode(found.tokens) == greedy[:-1] and len(greedy) > 10
