"""What an exported file says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qat.decoding.windows import Frames, WindowedRecogniser
from qat.layer_recipe import LayerRecipe
from qat.layers.step_lstm import StepLSTM
from qat.layers.swap import quantize_layer
from qat.runtime.metadata import layer_format, metadata, number_format
from qat.runtime.session import Session
from qat.system.errors import UserError
from tests.cli.stub import write_recogniser
from tests.conftest import noise
from tests.runtime.conftest import Exported


def test_metadata_tell_how_to_read_the_file(exported: Exported) -> None:
    session = Session(exported.integer.path)
    assert session.vocabulary == exported.module.vocabulary
    assert session.sample_rate == 16_000
    assert session.metadata["precision"] == "integer"
    assert json.loads(session.metadata["recipe"]) == exported.module.recipe.to_dict()
    labels = [session.vocabulary.index(item) for item in ("h", "h", "<blank>", "i", " ", " ", "i")]
    best = np.eye(len(session.vocabulary))[labels]
    assert session.decode(best) == exported.module.labels_to_text(torch.tensor(labels)) == "hi i"


def test_a_file_names_the_checkpoint_that_it_was_made_from_where_that_is_known(crdnn: Exported) -> None:
    assert metadata(crdnn.module, "integer", "5" * 64)["checkpoint_sha256"] == "5" * 64
    assert "checkpoint_sha256" not in metadata(crdnn.module, "integer")


def test_the_file_says_on_what_numbers_it_computes(crdnn: Exported, wav2vec2: Exported) -> None:
    assert crdnn.float is not None
    assert Session(crdnn.float.path).metadata["number_format"] == "float32"
    assert Session(crdnn.integer.path).metadata["number_format"] == (
        "weights int8 in a 7-bit range per channel, activations uint8 per tensor (7 layers); "
        "weights int8 in a 7-bit range per channel, activations dynamic uint8 per tensor (1 layer); "
        "everything else float32"
    )
    text = Session(wav2vec2.integer.path).metadata["number_format"]
    assert text == number_format(wav2vec2.module, "integer")
    assert f"({len(wav2vec2.module.swap_report.swapped)} layers)" in text


@pytest.mark.parametrize(
    ("layer", "recipe", "expected"),
    [
        (nn.Linear(4, 4), {"weight_bits": 4}, "weights int4 per channel, activations uint8 per tensor"),
        (
            nn.Linear(4, 4),
            {"weight_bits": 4, "four_bit_linear": "matmul_nbits"},
            "weights int4 per channel, activations int8 per block",
        ),
        (nn.Conv1d(4, 4, 3), {"weight_bits": 4}, "weights int4 per channel, activations uint8 per tensor"),
        (
            nn.Linear(4, 4),
            {"activation_granularity": "frame", "activation_bits": 4, "weight_granularity": "tensor"},
            "weights int8 per tensor, activations uint4 per frame",
        ),
        (nn.Linear(4, 4), {"activation_bits": None}, "weights int8 per channel, activations float32"),
        (nn.Linear(4, 4), {"weight_bits": None}, "weights float32, activations uint8 per tensor"),
        (
            nn.Linear(4, 4),
            {"activation_signed": True},
            "weights int8 per channel, activations int8 per tensor",
        ),
        (
            nn.LSTM(4, 4),
            {"activation_bits": 4},
            "weights int8 per channel, activations uint4 per tensor, then dynamic uint8 per tensor",
        ),
        (StepLSTM(4, 4), {"weight_bits": 4}, "weights int4 per channel, activations uint8 per tensor"),
        (
            nn.GRUCell(4, 4),
            {"activation_granularity": "frame"},
            "weights int8 per channel, activations uint8 per frame",
        ),
        (nn.Embedding(4, 4), {"weight_bits": 3}, "embeddings int3 per row"),
    ],
)
def test_every_arithmetic_has_its_format(layer: nn.Module, recipe: dict[str, object], expected: str) -> None:
    assert layer_format(quantize_layer(layer, LayerRecipe(**recipe))) == expected


def test_frames_begin_as_many_samples_apart_as_the_file_says(exported: Exported) -> None:
    session = Session(exported.integer.path)
    counts = [len(session.logits(noise(1, seconds)[0].numpy())) for seconds in (1.0, 4.0)]
    assert session.frames.samples * (counts[1] - counts[0]) == 3 * 16_000
    assert session.frames == Frames(exported.module.frame_samples, exported.module.blank)


def test_an_old_file_is_read_but_not_in_windows(tmp_path: Path) -> None:
    write_recogniser(tmp_path / "old.onnx", "on")
    session = Session(tmp_path / "old.onnx")
    assert session.transcribe(np.zeros(16_000)) == "on"
    with pytest.raises(
        UserError, match="must say frame_samples for a long recording; export the model again"
    ):
        WindowedRecogniser(session, 10).transcribe(np.zeros(160_001, np.float32))
