"""Post-training rows of the suite again, by the fake-quantized model: what kinds of processor do to the words.

On processors without VNNI 8-bit weights use a 7-bit range (`reduce_range`), so a row has other weights there. The
fake-quantized model computes the same sums on every processor: with the full range it is what a processor with VNNI
makes of a row, with the reduced range what one without makes of it. Both are compared with the stored row, utterance by
utterance, and so is the number of threads that calibrate and transcribe.

`python -m benchmarks.processors [--rows wav2vec2/w8a8_mse ...] [--threads 1 2]`
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.equalize import quantized
from benchmarks.result_file import ROOT, save, table
from datamodules.base import SpeechDataModule, evenly_spaced
from datamodules.build import build_data
from qat.decoding.options import DecodingOptions
from qat.evaluation.error_rates import count_utterances
from qat.evaluation.module_side import module_side
from qat.evaluation.parity import signal_of
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from qat.runs import read_config, start_of
from qat.runtime.attention_export import export
from qat.runtime.attention_session import open_session
from qat.suite.spec import Suite, load_suite

SUITE = "seed_tables"
ROWS = ("crdnn/w8a8", "crdnn/w8a8_max", "wav2vec2/w8a8", "wav2vec2/w8a8_max", "wav2vec2/w8a8_mse")
COLUMNS = ["row", "reduce_range", "threads", "split", "errors", "stored", "differing", "utterances"]
STORED = ROOT / "docs" / "results" / "seed_tables_errors.json"


def recipe_of(args: Sequence[str], config: dict[str, Any], seed: int) -> Recipe:
    """The recipe that a row's flags make of a configuration.

    >>> recipe_of(["--qat", "ptq_max", "--qat.weight_bits", "4"], {}, 1).weight_bits
    4
    """
    values: dict[str, Any] = dict(config.get("qat", {}))
    for name, value in zip(args[::2], args[1::2], strict=True):
        if name == "--qat":
            values |= yaml.safe_load((ROOT / "configs" / "qat" / f"{value}.yaml").read_text())
        elif name.startswith("--qat."):
            values[name.removeprefix("--qat.")] = yaml.safe_load(value)
    return Recipe.from_dict({**values, "seed": seed})


def errors_of(module: CTCModule, data: SpeechDataModule, split: str, limit: int | None) -> list[int]:
    """Word errors of the fake-quantized model in each utterance of a test set."""
    utterances = evenly_spaced(data.utterances(split), limit)
    with tempfile.TemporaryDirectory() as folder:
        file = open_session(export(module, Path(folder) / "model", "float").path, 1, DecodingOptions())
        side = module_side(module, file)
        texts = [side.transcribe(signal_of(batch)) for batch in data.loader(utterances)]
    found = count_utterances(
        [item.id for item in utterances],
        [item.text for item in utterances],
        texts,
        [item.duration_s for item in utterances],
    )
    return [item.counts.errors for item in found]


def measure(suite: Suite, name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row on both ranges and each number of threads."""
    row, rows = suite.row(name), list[dict[str, Any]]()
    config = read_config(suite.configs[row.model])
    start = start_of(config)
    assert start is not None
    stored = json.loads(STORED.read_text()).get(f"{name}/s1", {})
    data = build_data(
        {**config, "data": {**config["data"], "init_args": {**config["data"]["init_args"], "seed": 0}}}
    )
    for reduced in (False, True):
        for threads in options.threads:
            torch.set_num_threads(threads)
            recipe = replace(recipe_of(row.args, config, seed=1), reduce_range=reduced)
            module = quantized(Path(start), recipe, data)
            for split in data.test_splits:
                errors = errors_of(module, data, split, options.utterances)
                kept = stored.get(split, [])
                known = len(kept) == len(errors)
                rows.append(
                    {
                        "row": name,
                        "reduce_range": reduced,
                        "threads": threads,
                        "split": split,
                        "errors": sum(errors),
                        "stored": sum(kept) if known else None,
                        "differing": sum(a != b for a, b in zip(errors, kept, strict=True))
                        if known
                        else None,
                        "utterances": len(errors),
                    }
                )
                print(table(rows[-1:], COLUMNS), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help=f"of the suite {SUITE}")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--utterances", type=int, help="of each test set; default: all")
    options = parser.parse_args()
    suite, results = load_suite(SUITE), list[dict[str, Any]]()
    for name in options.rows:
        results += measure(suite, name, options)
    print(table(results, COLUMNS))
    if options.utterances is None:
        print(f"saved {save('processors', results)}")


if __name__ == "__main__":
    main()
