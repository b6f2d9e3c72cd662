"""What an exported file says of itself: labels, sample rate, number format, and where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from torch import nn

from datamodules.audio_file import SAMPLE_RATE
from qat.layer_recipe import LayerRecipe
from qat.layers.base import QuantLayer
from qat.layers.lstm import QuantLSTM
from qat.layers.swap import quant_layers
from qat.models.ctc import CTCModule
from qat.runtime.manifest import CHECKPOINT_KEY, FRAME_KEY


def metadata(module: CTCModule, precision: str, checkpoint_sha256: str = "") -> dict[str, str]:
    """Everything that a program which reads the file needs, as texts under fixed keys; lists as JSON.

    Args:
        module: what is exported.
        precision: "integer" or "float".
        checkpoint_sha256: see `origin`.
    """
    symbols = module.symbols
    symbols[module.blank] = ""
    return {
        "vocabulary": json.dumps(list(module.vocabulary)),
        "symbols": json.dumps(symbols),
        "blank": str(module.blank),
        FRAME_KEY: str(module.frame_samples),
        **origin(module, precision, checkpoint_sha256),
    }


def origin(module: CTCModule, precision: str, checkpoint_sha256: str = "") -> dict[str, str]:
    """What any exported graph says: where it comes from, and on what numbers it computes.

    Args:
        module: what is exported.
        precision: "integer" or "float".
        checkpoint_sha256: digest of the checkpoint that the module was read from (`qat.runs.sha256_of_checkpoint`), by
            which a graph is known as its own; "" says nothing of it.
    """
    settings = json.dumps(dict(module.hparams), sort_keys=True, default=str)
    return {
        "sample_rate": str(SAMPLE_RATE),
        "model": type(module).__name__,
        "precision": precision,
        "number_format": number_format(module, precision),
        "preset": module.recipe.preset,
        "recipe": json.dumps(module.recipe.to_dict(), sort_keys=True),
        "config_sha256": hashlib.sha256(settings.encode()).hexdigest(),
        **({CHECKPOINT_KEY: checkpoint_sha256} if checkpoint_sha256 else {}),
    }


def number_format(module: nn.Module, precision: str) -> str:
    """On what numbers a file computes, for people to read: each format with the number of its layers.

    Args:
        module: with or without quantized layers.
        precision: "integer" or "float".

    >>> number_format(nn.Linear(2, 2), "float")
    'float32'
    """
    if precision == "float":
        return "float32"
    counts = Counter(layer_format(layer) for _, layer in quant_layers(module))
    texts = [f"{text} ({count} layer{'' if count == 1 else 's'})" for text, count in counts.most_common()]
    return "; ".join([*texts, "everything else float32"])


def layer_format(layer: QuantLayer) -> str:
    """Format of one quantized layer, such as `weights int8 per channel, activations uint8 per tensor`."""
    recipe = layer.layer_recipe
    activations = "float32"
    if isinstance(layer, QuantLSTM) and recipe.activation_bits:
        first = f"{levels_of(recipe)} per tensor, then " if recipe.activation_bits < 8 else ""
        activations = f"{first}dynamic uint8 per tensor" if layer.dynamic else f"{first}float32"
    elif isinstance(layer, nn.Linear) and recipe.packs_linear:
        activations = "int8 per block"
    elif recipe.activation_bits:
        activations = f"{levels_of(recipe)} per {recipe.activation_granularity}"
    weights = "float32"
    if recipe.weight_bits:
        reduced = recipe.weight_bits == 8 and recipe.reduce_range
        weights = (
            f"int{recipe.weight_bits}{' in a 7-bit range' if reduced else ''} per {recipe.weight_granularity}"
        )
    if not layer.reads_activations:
        return f"embeddings {weights.replace('channel', 'row')}"
    return f"weights {weights}, activations {activations}"


def levels_of(recipe: LayerRecipe) -> str:
    """Type of the activation levels.

    >>> levels_of(LayerRecipe(activation_bits=4)), levels_of(LayerRecipe(activation_signed=True))
    ('uint4', 'int8')
    """
    return f"{'' if recipe.activation_signed else 'u'}int{recipe.activation_bits}"
