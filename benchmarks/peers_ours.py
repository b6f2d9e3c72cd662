"""The rows of ours in `benchmarks.peers`: a preset or a recipe that a search finds, exported to an integer file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmarks.peers_subject import Built, Subject
from benchmarks.result_file import ROOT
from qat.methods.ada_round import Reconstruction
from qat.methods.calibrate import calibrate_
from qat.methods.equalize import equalize_and_check
from qat.methods.fold_batch_norm import fold_and_check
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from qat.runtime.export import export_onnx
from qat.runtime.session import Session
from qat.search.options import SearchOptions
from qat.search.search import search

BY_FRAME: list[dict[str, Any]] = [  # docs/methods.md: ranges per frame in a Wav2Vec2's feature extractor
    {"match": "*conv_layers.0.conv", "activation_bits": 0},
    {"match": "feature_extractor", "activation_granularity": "frame"},
]


def build(subject: Subject, options: dict[str, Any], folder: Path) -> Built:
    """Quantize and export.

    Args:
        subject: the float model.
        options: `preset` or `search`; `by_frame`; other fields of a recipe.
        folder: for the file.
    """
    recipe = found_recipe(subject, folder) if "search" in options else recipe_of(subject, options)
    path = folder / "ours.onnx"
    export_onnx(quantized(subject, recipe), path, "integer")
    return Built(Session(path, 1), path, "onnxruntime")


def recipe_of(subject: Subject, options: dict[str, Any]) -> Recipe:
    """What `train.py --config configs/mini_KIND.yaml --qat PRESET` and its flags say, without training."""
    fields = {name: value for name, value in options.items() if name not in ("preset", "by_frame")}
    values = yaml.safe_load((ROOT / "configs" / "qat" / f"{options['preset']}.yaml").read_text())
    rules = BY_FRAME if options.get("by_frame") else list(subject.rules)
    drawn = {"calibration_utterances": subject.calibrated_on}
    return Recipe.from_dict({**values, **drawn, **fields, "rules": rules, "fine_tune": False})


def found_recipe(subject: Subject, folder: Path) -> Recipe:
    """The recipe that a search without a budget finds on dev, on this machine."""
    options = SearchOptions(calibration_utterances=subject.calibrated_on)
    path = search(subject.checkpoint, folder / "search", subject.data, {}, options)
    return Recipe.from_dict(yaml.safe_load(path.read_text()))


def quantized(subject: Subject, recipe: Recipe) -> CTCModule:
    """The model under a recipe: folded, calibrated, reconstructed where the recipe says so."""
    base = subject.module
    start = str(subject.checkpoint)
    module = type(base)(**{**dict(base.hparams), "recipe": recipe, "init_from": start})
    print(fold_and_check(module))
    if recipe.equalize != "none":
        print(equalize_and_check(module, subject.data))
    print(calibrate_(module, subject.data), flush=True)
    if recipe.ada_round or recipe.bias_correction:
        Reconstruction().run_(module, subject.data)
    return module.eval()
