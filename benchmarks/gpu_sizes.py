"""The models that `benchmarks.gpu` measures, at their published sizes, and how each is trained."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import yaml

from benchmarks import gpu_rows
from benchmarks.common import PUBLISHED, calibrate_on_noise_, noise
from benchmarks.gpu_rows import FLOAT, FLOAT_AGAIN, LEARNED
from benchmarks.result_file import ROOT
from datamodules.batch import Batch
from qat.models.ctc import CTCModule
from qat.recipe import Recipe

RANGES = {"weight_observer": "max", "activation_observer": "max"}  # how they are chosen makes no step faster


def recipe(**fields: Any) -> Recipe:
    """A recipe with quickly chosen ranges."""
    return Recipe.from_dict({**RANGES, **fields})


RECIPES: dict[str, Recipe | None] = {
    FLOAT: None,
    "deterministic": recipe(preset="deterministic"),
    "stochastic": recipe(preset="stochastic", rounding="stochastic"),
    LEARNED: recipe(preset="low_bit", learn_scale=True, weight_bits=4, activation_bits=4),
    FLOAT_AGAIN: None,
}
COMPILED = {name: RECIPES[name.removeprefix("compiled ")] for name in gpu_rows.COMPILED}
STEADY = {"layerdrop": 0.0, "apply_spec_augment": False}  # so that all steps do the same work
LARGE = {
    **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    **{"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
}
WORDS = "turn the light in the kitchen on "
LETTERS_PER_S = 14  # of read speech


@dataclass(frozen=True)
class Size:
    """A model and the batches that it is measured on.

    Args:
        name: of the model.
        kind: crdnn or wav2vec2.
        batches: (utterances, seconds of each).
        arguments: of its class.
        parameters_m: millions of parameters that it must have, within one in twenty; 0 does not ask.
    """

    name: str
    kind: str
    batches: tuple[tuple[int, float], ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    parameters_m: float = 0.0

    def build(self) -> CTCModule:
        """The float model in training mode, with seeded random weights, on the CPU.

        Raises:
            RuntimeError: it has another number of parameters.
        """
        torch.manual_seed(0)
        module = PUBLISHED[self.kind][0](**self.arguments)
        if self.parameters_m and abs(parameters_m(module) / self.parameters_m - 1) > 0.05:
            raise RuntimeError(
                f"{self.name}: has {parameters_m(module):.1f} M parameters, must have about {self.parameters_m}"
            )
        return module.train()


def variant_of(module: CTCModule, variant: str, device: torch.device | str) -> CTCModule:
    """A copy of a float model on the device, quantized as the variant has it, its ranges from noise.

    The layers are swapped in as its constructor would; drawing the random weights again would take longer than the
    measurement.
    """
    copied = copy.deepcopy(module)
    chosen = {**RECIPES, **COMPILED}[variant]
    if variant in COMPILED:
        copied.options = replace(copied.options, compile=True)
    if chosen is None:
        return copied.to(device)
    copied.recipe = chosen.resolved()
    copied.finish_build()
    copied.to(device)
    calibrate_on_noise_(copied)
    return copied.train()


def sizes(tiny: bool = False) -> list[Size]:
    """The models in the order in which they are measured; tiny ones for a rehearsal."""
    if tiny:
        shape = {
            **{"conv_dim": [8] * 7, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"intermediate_size": 32, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4},
        }
        small = {"n_mels": 8, "cnn_channels": [4, 4], "rnn_neurons": 8, "dnn_neurons": 8}
        wav2vec2 = {"config": {**STEADY, **shape}}
        return [
            Size("wav2vec2-base", "wav2vec2", ((2, 1.0),), wav2vec2),
            Size("crdnn", "crdnn", ((2, 1.0),), small),
            Size("wav2vec2-large", "wav2vec2", ((1, 1.0), (3, 1.0)), wav2vec2),
        ]
    settings = yaml.safe_load((ROOT / "configs/librispeech_crdnn.yaml").read_text())["model"]["init_args"]
    crdnn = {key: value for key, value in settings.items() if key != "init_from"}
    return [
        Size("wav2vec2-base", "wav2vec2", ((16, 12.0),), {"config": STEADY}, 94.4),
        Size("crdnn", "crdnn", ((16, 15.0),), crdnn, 108.0),
        Size("wav2vec2-large", "wav2vec2", ((8, 12.0), (32, 12.0)), {"config": {**STEADY, **LARGE}}, 315.5),
    ]


def parameters_m(module: CTCModule) -> float:
    """Millions of parameters."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def batch_of(utterances: int, seconds: float, device: torch.device | str) -> Batch:
    """Noise with transcripts as long as those of read speech."""
    signal = noise(utterances, seconds)
    lengths = torch.full((utterances,), signal.shape[1])
    letters = max(int(LETTERS_PER_S * seconds), 1)
    text = (WORDS * (letters // len(WORDS) + 1))[:letters].strip()
    return Batch(signal, lengths, [text] * utterances, [str(item) for item in range(utterances)]).to(device)


def batch_name(utterances: int, seconds: float) -> str:
    """Such as `16 x 12 s`."""
    return f"{utterances} x {seconds:g} s"
