"""The published attention model's size with random weights, for `benchmarks.attention`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import noise
from datamodules.batch import Batch
from datamodules.make_tokenizer import train
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.models.attention import AttentionModule
from qat.recipe import Recipe

# SpeechBrain's asr-crdnn-rnnlm-librispeech: 119.9 M values, and its language model 53.1 M
PUBLISHED: dict[str, Any] = {
    **{"cnn_channels": [128, 256], "cnn_pooling": [2, 2], "time_pooling_size": 4},
    **{"rnn_layers": 4, "rnn_neurons": 1024, "dnn_blocks": 2, "dnn_neurons": 512},
    **{"vocabulary_size": 1000, "embedding_dim": 128, "decoder_neurons": 1024, "attention_dim": 1024},
    **{"attention_channels": 10, "attention_kernel": 100, "normalize": "global"},
    **{
        "lm_embedding_dim": 128,
        "lm_layers": 2,
        "lm_neurons": 2048,
        "lm_dnn_blocks": 1,
        "lm_dnn_neurons": 512,
    },
}
SEARCH: dict[str, Any] = {
    **{"lm_weight": 0.5, "coverage_weight": 1.5, "coverage_threshold": 0.5, "eos_threshold": 1.5},
    **{"max_attention_shift": 240, "temperature": 1.25, "lm_temperature": 1.25},
}


def tokenizer_file(folder: Path, pieces: int) -> Path:
    """A SentencePiece model of that many pieces, of random words: its speed depends on nothing else."""
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), 6)) for _ in range(4 * pieces)]
    path = folder / "tokenizer.model"
    path.write_bytes(train(words, pieces))
    return path


def published(folder: Path, recipe: Recipe | None = None) -> AttentionModule:
    """The model, with seeded random weights, in eval mode; `folder` takes the tokenizer's file."""
    torch.manual_seed(0)
    tokenizer = tokenizer_file(folder, PUBLISHED["vocabulary_size"])
    return AttentionModule(recipe, tokenizer=str(tokenizer), search=SEARCH, **PUBLISHED).eval()


@torch.no_grad()
def calibrate_on_noise_(module: AttentionModule, seconds: float = 2.0) -> None:
    """Give every quantizer some range and switch it on: speed does not depend on which."""
    signal = noise(1, seconds, seed=1)
    set_observing_(module, True)
    module.posteriors(Batch(signal, torch.tensor([signal.shape[1]]), ["abc def ghi"], ["noise"]))
    set_observing_(module, False)
    calibrate_weights_(module)
    finish_calibration_(module)
    module.quantize()
