"""A tiny attention model and batches for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.batch import Batch
from datamodules.make_tokenizer import train
from qat.models.attention import AttentionModule
from qat.recipe import Recipe

TEXTS = ("turn the light on", "play the song", "what is the time", "set a timer for ten minutes")
PIECES = 30
SHAPE: dict[str, Any] = {
    **{"n_mels": 20, "cnn_channels": [3, 4], "rnn_layers": 1, "rnn_neurons": 12, "dnn_neurons": 14},
    **{"time_pooling_size": 2, "vocabulary_size": PIECES, "embedding_dim": 6, "decoder_neurons": 10},
    **{"attention_dim": 8, "attention_channels": 3, "attention_kernel": 4, "lm_embedding_dim": 6},
    **{"lm_neurons": 10, "lm_dnn_neurons": 8},
}


def tokenizer_file(folder: Path) -> Path:
    """A tokenizer of `PIECES` pieces."""
    lines = (Path(__file__).parents[2] / "datamodules/mini/dev.jsonl").read_text().splitlines()
    path = folder / "tokenizer.model"
    path.write_bytes(train([json.loads(line)["text"] for line in lines], PIECES))
    return path


def attention_model(
    folder: Path, recipe: Recipe | None = None, seed: int = 0, **options: Any
) -> AttentionModule:
    """With random weights, in eval mode; `folder` takes the tokenizer's file."""
    torch.manual_seed(seed)
    chosen = {**SHAPE, "tokenizer": str(tokenizer_file(folder)), **options}
    return AttentionModule(recipe=recipe, **chosen).eval()


def batch_of(count: int, seed: int = 0) -> Batch:
    """Noise of about a second, with texts of the grammar."""
    random = np.random.default_rng(seed)
    lengths = torch.tensor([16_000 - 1_600 * row for row in range(count)])
    signal = torch.from_numpy(0.1 * random.standard_normal((count, 16_000)).astype(np.float32))
    signal = signal.masked_fill(torch.arange(16_000) >= lengths[:, None], 0.0)
    texts = [TEXTS[row % len(TEXTS)] for row in range(count)]
    return Batch(signal, lengths, texts, [f"u{row}" for row in range(count)])
