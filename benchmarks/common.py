"""What benchmarks share: models, noise, calibration on it."""

from __future__ import annotations

from typing import Any

import torch
import yaml

from benchmarks.result_file import ROOT
from datamodules.audio_file import SAMPLE_RATE
from qat.layers.base import device_of
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.models.crdnn import CRDNNModule
from qat.models.ctc import CTCModule
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.recipe import Recipe

# Published sizes: SpeechBrain's LibriSpeech CRDNN encoder, and facebook/wav2vec2-base.
PUBLISHED: dict[str, tuple[type[CTCModule], dict[str, Any]]] = {
    "crdnn": (
        CRDNNModule,
        {
            "cnn_channels": [128, 256],
            "time_pooling_size": 4,
            "rnn_layers": 4,
            "rnn_neurons": 1024,
            "dnn_neurons": 1024,
        },
    ),
    "wav2vec2": (Wav2Vec2Module, {"config": {"layerdrop": 0.0, "apply_spec_augment": False}}),
}


def mini(kind: str, recipe: Recipe | None) -> CTCModule:
    """The mini model of a configuration, with seeded random weights."""
    torch.manual_seed(0)
    settings = yaml.safe_load((ROOT / "configs" / f"mini_{kind}.yaml").read_text())["model"]
    arguments = {key: value for key, value in settings["init_args"].items() if key != "init_from"}
    return PUBLISHED[kind][0](recipe=recipe, **arguments)


def published(kind: str, recipe: Recipe | None) -> CTCModule:
    """The model at its published size, with seeded random weights."""
    torch.manual_seed(0)
    model_class, arguments = PUBLISHED[kind]
    return model_class(recipe=recipe, **arguments)


def noise(batch: int, seconds: float, seed: int = 0) -> torch.Tensor:
    """Seeded noise `(B, S)`."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(batch, int(seconds * SAMPLE_RATE), generator=generator)


@torch.no_grad()
def calibrate_on_noise_(module: CTCModule, seconds: float = 3.0) -> None:
    """Give every quantizer some range and switch it on: speed does not depend on which."""
    was_training = module.training
    module.eval()
    set_observing_(module, True)
    signal = noise(1, seconds, seed=1).to(device_of(module))
    module(signal, torch.tensor([signal.shape[1]]))
    set_observing_(module, False)
    calibrate_weights_(module)
    finish_calibration_(module)
    module.quantize()
    module.train(was_training)
