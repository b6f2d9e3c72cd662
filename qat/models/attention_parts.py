"""The parts of an attention model, as SpeechBrain builds them: a folder's weights fit by name."""

from __future__ import annotations

from typing import Any

import torch
from speechbrain.lobes.models.RNNLM import RNNLM
from speechbrain.nnet.embedding import Embedding
from speechbrain.nnet.linear import Linear
from speechbrain.nnet.RNN import AttentionalRNNDecoder
from torch import Tensor, nn

from qat.decoding.tokenizer import SentencePieceTokenizer
from qat.layers.step_lstm import StepLSTM
from qat.models.attention_options import AttentionOptions
from qat.system.errors import UserError


class Tokenizer(nn.Module):
    """A SentencePiece model that lies in its module's state dict, so that a checkpoint needs no file beside it.

    Args:
        path: of the model file; None: a checkpoint brings it.
    """

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self.model = b""
        if path is not None:
            try:
                with open(path, "rb") as file:
                    self.model = file.read()
            except OSError as error:
                raise UserError(
                    f"tokenizer: {path} must be a SentencePiece model ({error.strerror})"
                ) from None

    @property
    def pieces(self) -> SentencePieceTokenizer:
        """The tokenizer.

        Raises:
            UserError: there is none yet.
        """
        if not self.model:
            raise UserError("tokenizer: must be given where the model starts from random weights")
        return _tokenizer(self.model)

    def get_extra_state(self) -> Tensor:
        """Bytes of the model, uint8 `(N,)`."""
        return torch.frombuffer(bytearray(self.model or b"\0"), dtype=torch.uint8).clone()

    def set_extra_state(self, state: Tensor) -> None:
        """Take the bytes of a checkpoint."""
        model = state.cpu().numpy().tobytes()
        self.model = b"" if model == b"\0" else model


_TOKENIZERS: dict[bytes, SentencePieceTokenizer] = {}


def _tokenizer(model: bytes) -> SentencePieceTokenizer:
    if model not in _TOKENIZERS:
        _TOKENIZERS[model] = SentencePieceTokenizer(model)
    return _TOKENIZERS[model]


def build_decoder(options: AttentionOptions) -> dict[str, nn.Module]:
    """Embedding, decoder and both output layers, by their names in the model."""
    width = options.dnn_neurons
    decoder = AttentionalRNNDecoder(
        rnn_type="gru",
        attn_type="location",
        hidden_size=options.decoder_neurons,
        attn_dim=options.attention_dim,
        num_layers=options.decoder_layers,
        enc_dim=width,
        input_size=options.embedding_dim,
        channels=options.attention_channels,
        kernel_size=options.attention_kernel,
        scaling=options.attention_scaling,
        dropout=options.dropout,
    )
    return {
        "embedding": Embedding(options.vocabulary_size, options.embedding_dim),
        "decoder": decoder,
        "ctc_lin": Linear(input_size=width, n_neurons=options.vocabulary_size),
        "seq_lin": Linear(input_size=options.decoder_neurons, n_neurons=options.vocabulary_size),
    }


def build_language_model(options: AttentionOptions) -> RNNLM:
    """SpeechBrain's RNNLM, whose LSTM can go step by step."""
    lm = RNNLM(
        output_neurons=options.vocabulary_size,
        embedding_dim=options.lm_embedding_dim,
        dropout=options.lm_dropout,
        rnn_layers=options.lm_layers,
        rnn_neurons=options.lm_neurons,
        dnn_blocks=options.lm_dnn_blocks,
        dnn_neurons=options.lm_dnn_neurons,
        return_hidden=True,
    )
    lm.rnn.rnn = StepLSTM.from_lstm(lm.rnn.rnn)
    return lm


def language_model_logits(lm: Any, labels: Tensor) -> Tensor:
    """Labels `(B, U)` -> logits of the label after each, `(B, U, V)`; a label sees those before it only."""
    x = lm.dropout(lm.embedding(labels))
    return lm.out(lm.dnn(lm.rnn.rnn(x)[0]))


def language_model_step(lm: Any, labels: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
    """One label further, in evaluation.

    Args:
        lm: see `build_language_model`.
        labels: `(N,)`.
        state: hidden and cell `(L, N, H)` each.

    Returns:
        logits `(N, V)`, next state.
    """
    x, state = lm.rnn.rnn.step(lm.embedding(labels), state)
    return lm.out(lm.dnn(x.unsqueeze(1))).squeeze(1), state
