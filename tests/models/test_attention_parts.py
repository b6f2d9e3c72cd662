"""Parts of an attention model: SpeechBrain's, with a tokenizer in the state dict and an LSTM that goes step by step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from speechbrain.lobes.models.RNNLM import RNNLM

from qat.models.attention_options import AttentionOptions
from qat.models.attention_parts import (
    Tokenizer,
    build_decoder,
    build_language_model,
    language_model_logits,
    language_model_step,
)
from qat.system.errors import UserError
from tests.models.attention_models import SHAPE, tokenizer_file


def test_a_checkpoint_brings_the_tokenizer(tmp_path: Path) -> None:
    with_file, without = Tokenizer(str(tokenizer_file(tmp_path))), Tokenizer(None)
    without.load_state_dict(with_file.state_dict())
    assert without.model == with_file.model and len(without.pieces) == SHAPE["vocabulary_size"]
    empty = Tokenizer(None)
    empty.load_state_dict(Tokenizer(None).state_dict())
    with pytest.raises(UserError, match="tokenizer: must be given"):
        empty.pieces.encode("a")


def test_a_missing_tokenizer_file_is_one_line() -> None:
    with pytest.raises(UserError, match="tokenizer: /nowhere must be a SentencePiece model"):
        Tokenizer("/nowhere")


@torch.no_grad()
def test_the_language_model_is_speechbrains_over_a_text_and_step_by_step() -> None:
    torch.manual_seed(2)
    options = AttentionOptions(**{**SHAPE, "lm_layers": 2})
    mine: Any = build_language_model(options).eval()
    theirs = RNNLM(
        options.vocabulary_size, options.lm_embedding_dim, dropout=options.lm_dropout, rnn_layers=2,
        rnn_neurons=options.lm_neurons, dnn_neurons=options.lm_dnn_neurons,
    ).eval()  # fmt: skip
    theirs.load_state_dict(mine.state_dict())
    labels = torch.randint(0, options.vocabulary_size, (3, 6))
    logits = language_model_logits(mine, labels)
    torch.testing.assert_close(logits, theirs(labels), atol=1e-6, rtol=1e-5)
    zeros = torch.zeros(2, 3, options.lm_neurons)
    state = (zeros, zeros)
    for place in range(6):
        step, state = language_model_step(mine, labels[:, place], state)
        torch.testing.assert_close(step, logits[:, place], atol=1e-6, rtol=1e-5)


def test_the_decoder_has_the_names_of_a_speechbrain_folder() -> None:
    parts = build_decoder(AttentionOptions(**SHAPE))
    keys = {f"{name}.{key}" for name, part in parts.items() for key in part.state_dict()}
    assert {"embedding.Embedding.weight", "decoder.rnn.rnn_cells.0.weight_ih", "seq_lin.w.weight"} < keys
    assert {"ctc_lin.w.weight", "decoder.attn.conv_loc.weight", "decoder.proj.weight"} < keys
