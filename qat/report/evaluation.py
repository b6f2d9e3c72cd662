"""From checkpoints to the report: export, read the test sets with the exported file, time it, compare, write."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch, Utterance
from qat.layers import count_macs, coverage
from qat.report import guards
from qat.report.error_rates import (
    UtteranceErrors,
    count_utterances,
    error_fields,
    save_worst,
    worst_utterances,
)
from qat.report.figures import draw_all
from qat.report.model_card import write_model_card
from qat.report.provenance import write_text
from qat.report.row import Row, build_row, config_sha256, provenance, save_report, sha256_file
from qat.report.sqnr import layer_sqnr
from qat.report.tables import print_table, write_report_markdown
from qat.runs import Candidate, candidates_of
from qat.runtime import Session, export_onnx, measure_latency
from qat.runtime.parity import compare

ERRORS_FILE = "errors.json"
LICENSES = {
    "mini": "trained on the mini corpus, see datamodules/mini/licenses/LICENSES.md for its sources",
    "librispeech": "trained on LibriSpeech (CC-BY-4.0)",
}


@dataclass(frozen=True)
class EvaluationOptions:
    """How a report is measured.

    Args:
        enabled: measure and write the report at the end of training.
        threads: threads of the engine, for error rates and latency alike.
        warmup: untimed runs before each timing.
        repeats: timed runs of each file over the test set's length mix, at least 20.
        seed: of the bootstrap.
        worst: utterances kept in `worst.json` per split.
        twin: measure the post-training-quantized twin of a fine-tuned model as well.
        cache: folder that keeps what float files made of the test sets, by the file's hash; many runs share a float
            start. None reads anew.
    """

    enabled: bool = True
    threads: int = 1
    warmup: int = 3
    repeats: int = 20
    seed: int = 0
    worst: int = 50
    twin: bool = True
    cache: str | None = None


@dataclass
class Heard:
    """What one exported file made of the test sets."""

    candidate: Candidate
    file: Path
    nodes: Mapping[str, Any]
    coverage: dict[str, Any]
    packed: int = 0
    utterances: dict[str, list[UtteranceErrors]] = field(default_factory=dict)
    parity: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def is_integer(self) -> bool:
        """Whether the file computes on integers."""
        return self.candidate.module.recipe.active


def report_checkpoint(
    checkpoint: Path,
    folder: Path,
    data: SpeechDataModule,
    config: Mapping[str, Any],
    options: EvaluationOptions,
) -> list[Row]:
    """Measure a checkpoint beside its float start and its post-training twin; write and print the report.

    Writes `report.json`, `report.md`, `worst.json`, one ONNX file per model, and figures into `folder`.
    """
    started = time.time()
    candidates = candidates_of(checkpoint, dict(config), options.twin)
    check_splits(data, candidates)
    heard = [listen(candidate, folder, data, options) for candidate in candidates]
    check_files(heard, data)
    timings = time_files(heard, data, options)
    rows = [
        row
        for split in data.test_splits
        for item in heard
        for row in [make_row(item, heard[0], split, timings, folder, data, config, options, started)]
    ]
    for row in rows:
        guards.check_integer_nodes(row)
    guards.check_rows_differ(rows)
    write_report(folder, rows, heard, data, options)
    write_model_card(folder, rows, config, LICENSES.get(rows[0]["dataset"], "not stated"))
    return rows


def listen(candidate: Candidate, folder: Path, data: SpeechDataModule, options: EvaluationOptions) -> Heard:
    """Export a model and read every test split with the file; for a quantized one, check parity as well."""
    module = candidate.module
    file = folder / f"{candidate.name}.onnx"
    written = export_onnx(module, file, "integer" if module.recipe.active else "float")
    session = Session(file, threads=options.threads)
    signal, lengths = torch.zeros(1, 64_000), torch.tensor([64_000])
    shares = coverage(module, count_macs(module, lambda: module(signal, lengths)))
    reasons = dict(module.swap_report.skipped)
    shares["skipped"] = [[name, reasons.get(name, "the recipe is off")] for name in shares["skipped"]]
    heard = Heard(candidate, file, session.node_counts(), shares, written.packed)
    for split in data.test_splits:
        utterances = data.utterances(split)
        print(f"reading {split} ({len(utterances)} utterances) with {file}", flush=True)
        if module.recipe.active:
            parity = compare(module, session, data.loader(utterances))
            heard.parity[split], texts = parity.to_dict(), parity.integer
        else:
            texts = read_float(file, session, split, data, options)
        heard.utterances[split] = count_utterances(
            [item.id for item in utterances],
            [item.text for item in utterances],
            texts,
            [item.duration_s for item in utterances],
        )
    return heard


def read_float(
    file: Path, session: Session, split: str, data: SpeechDataModule, options: EvaluationOptions
) -> list[str]:
    """Texts of a split by a float file, from the cache where the very same file has read the very same split."""
    kept: Path | None = None
    if options.cache is not None:
        key = f"{sha256_file(file)} {data.split_fingerprint(split)} {ort.__version__} {options.threads}"
        kept = Path(options.cache) / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        if kept.is_file():
            return json.loads(kept.read_text())
    texts = [session.transcribe(signal_of(batch)) for batch in data.loader(data.utterances(split))]
    if kept is not None:
        write_text(kept, json.dumps(texts))
    return texts


def signal_of(batch: Batch) -> np.ndarray:
    """Samples `(S,)` of a batch of one utterance."""
    return batch.signal[0, : int(batch.lengths[0])].numpy()


def check_splits(data: SpeechDataModule, candidates: Sequence[Candidate]) -> None:
    """Guard: neither calibration nor AdaRound may have seen what is evaluated."""
    for recipe in (item.module.recipe for item in candidates if item.module.recipe.active):
        count = max(recipe.calibration_utterances, recipe.reconstruction_utterances)
        seen = [item.id for item in data.calibration_utterances(count, recipe.seed)]
        for split in data.test_splits:
            guards.check_no_leak(seen, [item.id for item in data.utterances(split)], split)


def check_files(heard: Sequence[Heard], data: SpeechDataModule) -> None:
    """Guards on the files: no weight left in float unsaid, logits differ from float, recipes take effect."""
    reference = Session(heard[0].file)
    signals = [signal_of(batch) for batch in data.loader(data.utterances(data.test_splits[0])[:3])]
    measured = []
    for item in heard[1:]:
        if not item.is_integer:
            continue
        guards.check_float_compute(
            item.nodes["names"]["float_compute"],
            [name for name, _ in item.coverage["skipped"]],
            item.file.name,
        )
        session = Session(item.file)
        guards.check_logits_differ(
            [reference.logits(signal) for signal in signals],
            [session.logits(signal) for signal in signals],
            item.file.name,
        )
        recipe = item.candidate.module.recipe.to_dict()
        measured.append(
            guards.Measured(
                item.file.name,
                type(item.candidate.module).__name__,
                guards.initializers_sha256(item.file),
                recipe,
            )
        )
    guards.check_recipes_take_effect(measured)


def time_files(
    heard: Sequence[Heard], data: SpeechDataModule, options: EvaluationOptions
) -> dict[str, dict[str, Any]]:
    """Latency of each integer file beside the float file, the two taking turns. Name -> measurement."""
    signals = [signal_of(batch) for batch in data.loader(length_mix(data, options.repeats))]
    timings = {}
    for item in heard[1:] or heard:
        print(f"timing {heard[0].file.name} and {item.file.name} in turns", flush=True)
        timings[item.candidate.name] = measure_latency(
            heard[0].file,
            item.file,
            signals,
            threads=options.threads,
            warmup=options.warmup,
            repeats=options.repeats,
        )
    return timings


def length_mix(data: SpeechDataModule, count: int) -> list[Utterance]:
    """`count` test utterances, evenly spaced over the sorted durations of all test splits."""
    every = sorted(
        (item for split in data.test_splits for item in data.utterances(split)),
        key=lambda item: item.duration_s,
    )
    count = max(count, 1)
    return [every[(2 * index + 1) * len(every) // (2 * count)] for index in range(count)]


def make_row(
    item: Heard,
    reference: Heard,
    split: str,
    timings: Mapping[str, Mapping[str, Any]],
    folder: Path,
    data: SpeechDataModule,
    config: Mapping[str, Any],
    options: EvaluationOptions,
    started: float,
) -> Row:
    """One row of the report: this model on this split."""
    is_float = item is reference
    recipe = item.candidate.module.recipe
    seed = config.get("seed_everything")
    return build_row(
        run=folder.name,
        model=type(item.candidate.module).__name__.removesuffix("Module"),
        method=item.candidate.method,
        weight_bits=bits_of(item, "weight_bits"),
        activation_bits=bits_of(item, "activation_bits"),
        rounding=recipe.rounding if recipe.active and item.candidate.method != "ptq" else None,
        seed=seed if isinstance(seed, int) else 0,
        dataset=type(data).__name__.removesuffix("DataModule").lower(),
        split=split,
        **error_fields(
            item.utterances[split], options.seed, None if is_float else reference.utterances[split]
        ),
        **timing_fields(item, reference, timings),
        precision="integer" if item.is_integer else "float",
        threads=options.threads,
        batch_size=1,
        warmup=options.warmup,
        repeats=options.repeats,
        coverage=item.coverage if item.is_integer else None,
        integer_nodes=item.nodes["integer"],
        float_compute_nodes=item.nodes["float_compute"],
        parity=item.parity.get(split),
        config_sha256=config_sha256(dict(config)),
        checkpoint_sha256=sha256_file(item.candidate.checkpoint),
        notes=notes_of(item, is_float),
        **provenance(started),
    )


def notes_of(item: Heard, is_float: bool) -> list[str]:
    """Why fields of a row are null."""
    if is_float:
        return [
            f"{name}: this is the float row"
            for name in (
                "delta_wer_vs_float",
                "float_latency_ms",
                "speedup",
                "float_size_mb",
                "coverage",
                "parity",
            )
        ]
    if not item.is_integer:
        return [f"{name}: a float model" for name in ("coverage", "parity")]
    kinds = list(item.nodes["names"]["integer"].values())
    blocks = kinds.count("MatMulNBits")
    said = []
    if item.packed:
        said.append(
            f"integer_nodes: {item.packed} weights of 2 to 4 bits are unpacked at load and computed on int8"
        )
    if blocks:
        said.append(
            f"integer_nodes: {blocks} linear layers compute on 4-bit weights as stored, int8 activations"
        )
    return said


def bits_of(item: Heard, name: str) -> int | str | None:
    """Bit width over the quantized layers: a number, or "4/8" when rules mix widths."""
    if not item.is_integer:
        return None
    from qat.layers import quant_layers

    widths = {getattr(layer.layer_recipe, name) for _, layer in quant_layers(item.candidate.module)}
    known = sorted(width for width in widths if width)
    if not known:
        return None
    return known[0] if len(known) == 1 else "/".join(map(str, known))


def timing_fields(item: Heard, reference: Heard, timings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Latency, memory and size of a row, and of the float file it took turns with."""
    is_float = item is reference
    timing = next(iter(timings.values())) if is_float else timings[item.candidate.name]
    own, theirs = timing["float" if is_float else "integer"], timing["float"]
    return {
        "engine": timing["engine"],
        "provider": timing["provider"],
        "device": timing["device"],
        "latency_ms": own["latency_ms"],
        "rtf": own["rtf"],
        "peak_memory_mb": own["peak_memory_mb"],
        "size_mb": item.file.stat().st_size / 1e6,
        "float_latency_ms": None if is_float else theirs["latency_ms"],
        "float_size_mb": None if is_float else reference.file.stat().st_size / 1e6,
        "speedup": None if is_float else timing["speedup"],
    }


def write_report(
    folder: Path,
    rows: Sequence[Row],
    heard: Sequence[Heard],
    data: SpeechDataModule,
    options: EvaluationOptions,
) -> None:
    """Write rows, tables, utterances and figures; print the table."""
    last = heard[-1]
    write_text(folder / ERRORS_FILE, json.dumps(errors_of(heard)) + "\n")
    save_report(folder / "report.json", rows)
    write_report_markdown(folder / "report.md", rows, f"{folder.name}", last.candidate.module.reconstruction)
    save_worst(
        folder / "worst.json",
        {split: worst_utterances(items, options.worst) for split, items in last.utterances.items()},
    )
    metrics = folder / "metrics.csv"
    sqnr = sqnr_of(last.candidate, data) if last.is_integer else None
    draw_all(folder, rows, sqnr, metrics if metrics.is_file() else None)
    print_table(
        rows, f"{folder}: word error rate with 95 % intervals, latency and size of the exported files"
    )
    print(f"report: {folder / 'report.md'}", flush=True)


def errors_of(heard: Sequence[Heard]) -> dict[str, dict[str, list[int]]]:
    """Word errors of every utterance in order, for later significance tests: model's file -> split -> counts.

    `words` holds the reference words.
    """
    found = {
        item.candidate.name: {
            split: [utterance.counts.errors for utterance in utterances]
            for split, utterances in item.utterances.items()
        }
        for item in heard
    }
    words = {
        split: [utterance.counts.reference_words for utterance in utterances]
        for split, utterances in heard[0].utterances.items()
    }
    return {"words": words, **found}


def sqnr_of(candidate: Candidate, data: SpeechDataModule) -> dict[str, float]:
    """Per-layer signal-to-quantization-noise ratio (dB) on a few dev utterances: the model against itself, off."""
    import copy

    reference = copy.deepcopy(candidate.module)
    reference.quantize(False)
    batches: Iterable[Batch] = data.loader(data.utterances("dev")[:8])
    return layer_sqnr(reference, candidate.module, batches, lambda model, b: model(b.signal, b.lengths))
