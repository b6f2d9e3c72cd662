"""Channels a hundred times larger than the rest, planted in the mini models: 8 bits with and without equalization.

In each pair of layers that equalization could scale, a few channels are made larger where they are produced and smaller
where they are read, so that the float model stays the same function. All files are exported, and transcribe dev.

`python -m benchmarks.equalize [--models crdnn wav2vec2] [--channels 2] [--factor 100] [--utterances N]`
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.result_file import ROOT, save, table
from datamodules.base import SpeechDataModule
from datamodules.mini_corpus import MiniDataModule
from datamodules.utterance import evenly_spaced
from qat.decoding.options import DecodingOptions
from qat.evaluation.error_rates import UtteranceErrors, count_utterances, total
from qat.evaluation.parity import signal_of
from qat.evaluation.significance import paired_difference
from qat.layers.equalize import scale_pair_, unfit_reason
from qat.methods.calibrate import calibrate_
from qat.methods.equalize import equalize_and_check
from qat.methods.fold_batch_norm import fold_and_check
from qat.models.ctc import CTCModule
from qat.models.loading import load_module, save_module
from qat.recipe import Recipe
from qat.runtime.attention_export import export
from qat.runtime.attention_session import open_session

SPLIT = "dev"
# A Wav2Vec2's extractor loses with one range for all frames, outliers or not: it gets one for each frame.
EXTRACTOR: list[dict[str, Any]] = [
    {"match": "*conv_layers.0.conv", "activation_bits": 0},
    {"match": "feature_extractor", "activation_granularity": "frame"},
]
RULES = {"crdnn": [], "wav2vec2": EXTRACTOR}
COLUMNS = [
    "model",
    "weights",
    "method",
    "equalize",
    "utterances",
    "wer",
    "delta",
    "ci95",
    "p_value",
    "same_words",
]


@torch.no_grad()
def plant_outliers_(module: CTCModule, channels: int = 2, factor: float = 100.0, seed: int = 0) -> list[str]:
    """Make some channels of every pair that can be scaled `factor` times larger; the float output stays the same.

    Args:
        module: changed in place.
        channels: of each pair.
        factor: by which they grow.
        seed: of their choice.

    Returns:
        Names of the pairs.
    """
    generator, planted = torch.Generator().manual_seed(seed), []
    for pair in module.scale_pairs():
        if unfit_reason(module, pair):
            continue
        width = read_channels(module, pair.consumers[0])
        scale = torch.ones(width)
        scale[torch.randperm(width, generator=generator)[:channels]] = 1 / factor
        scale_pair_(module, pair, scale)
        planted.append(pair.name)
    return planted


def read_channels(module: CTCModule, name: str) -> int:
    """How many channels a layer reads."""
    layer: Any = module.get_submodule(name)
    widths = ("in_features", "in_channels", "input_size")
    return int(next(getattr(layer, width) for width in widths if hasattr(layer, width)))


def recipe_of(kind: str, preset: str, equalize: str) -> Recipe:
    """A post-training preset on the model's layers."""
    values = yaml.safe_load((ROOT / "configs" / "qat" / f"{preset}.yaml").read_text())
    return Recipe.from_dict({**values, "rules": RULES[kind], "equalize": equalize})


def quantized(start: Path, recipe: Recipe, data: SpeechDataModule) -> CTCModule:
    """A calibrated model of a float checkpoint."""
    base = load_module(start)
    module = type(base)(**{**dict(base.hparams), "recipe": recipe, "init_from": str(start)})
    print(fold_and_check(module))
    if recipe.equalize != "none":
        print(equalize_and_check(module, data))
    print(calibrate_(module, data))
    return module.eval()


def transcribe(module: CTCModule, folder: Path, signals: Sequence[Any]) -> list[str]:
    """Texts of the exported file."""
    precision: Any = "integer" if module.recipe.active else "float"
    session = open_session(export(module, folder / "model", precision).path, 1, DecodingOptions())
    return [session.transcribe(signal) for signal in signals]


def measure(kind: str, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Float and quantized files of the shipped and of the planted weights."""
    data = MiniDataModule()
    utterances = evenly_spaced(data.utterances(SPLIT), options.utterances)
    signals = [signal_of(batch) for batch in data.loader(utterances)]
    shipped, planted = ROOT / "checkpoints" / f"mini_{kind}" / "model.ckpt", folder / "planted.ckpt"
    module = load_module(shipped)
    pairs = plant_outliers_(module, options.channels, options.factor, options.seed)
    print(f"planted {options.channels} channels x {options.factor:g} in each of {len(pairs)} pairs of layers")
    save_module(module, planted)
    rows: list[dict[str, Any]] = []
    baseline: list[UtteranceErrors] = []
    for weights, start in (("shipped", shipped), ("planted", planted)):
        for equalize in ("float", *options.equalize):
            if equalize == "float":
                module = load_module(start)
            else:
                module = quantized(start, recipe_of(kind, options.preset, equalize), data)
            texts = transcribe(module, folder, signals)
            found = count_utterances(
                [item.id for item in utterances],
                [item.text for item in utterances],
                texts,
                [item.duration_s for item in utterances],
            )
            baseline = baseline or found
            method = "float" if equalize == "float" else options.preset
            row = {"model": f"mini {kind}", "weights": weights, "method": method}
            row |= {"equalize": None if equalize == "float" else equalize, **compared(found, baseline)}
            rows.append(row)
            print(table(rows[-1:], COLUMNS), flush=True)
    return rows


def compared(found: Sequence[UtteranceErrors], baseline: Sequence[UtteranceErrors]) -> dict[str, Any]:
    """Error rate, and the paired bootstrap against the shipped float file."""
    errors, before = ([item.counts.errors for item in side] for side in (found, baseline))
    words = [item.counts.reference_words for item in found]
    difference = paired_difference(errors, before, words, seed=0)
    assert difference is not None
    same = sum(one.hypothesis == two.hypothesis for one, two in zip(found, baseline, strict=True))
    return {
        "utterances": len(found),
        "same_words": same,
        "wer": total(found).wer,
        "delta": difference.mean,
        "ci95": list(difference.ci95),
        "p_value": difference.p_value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--preset", default="ptq_percentile", help="post-training preset, 8 bits")
    parser.add_argument("--equalize", nargs="+", default=["none", "cross_layer", "smooth"])
    parser.add_argument("--channels", type=int, default=2, help="planted in each pair of layers")
    parser.add_argument("--factor", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=0, help="of the channels")
    parser.add_argument("--utterances", type=int, help="of dev; default: all")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = []
    for kind in options.models:
        with tempfile.TemporaryDirectory() as folder:
            results += measure(kind, options, Path(folder))
    print(table(results, COLUMNS))
    if options.utterances is None:
        print(f"saved {save('equalize', results)}")


if __name__ == "__main__":
    main()
