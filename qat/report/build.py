"""From checkpoints to the report: export, read the test sets with the exported file, time it, compare, write."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch, Utterance
from qat.evaluation import guards
from qat.evaluation.candidates import Candidate, candidates_of
from qat.evaluation.error_rates import error_fields, save_worst, worst_utterances
from qat.evaluation.options import EvaluationOptions
from qat.evaluation.sqnr import layer_sqnr
from qat.evaluation.transcripts import Heard, listen, signal_of, texts_of
from qat.report.figures import draw_all
from qat.report.model_card import write_model_card
from qat.report.row import Row, build_row, save_report
from qat.report.tables import print_table, write_report_markdown
from qat.runs import UTTERANCES_FILE
from qat.runtime.latency import measure_latency
from qat.runtime.session import Session
from qat.system.files import sha256_path, write_text
from qat.system.provenance import config_sha256, provenance
from qat.system.ranks import rank_and_world

LICENSES = {
    "mini": "trained on the mini corpus, see datamodules/mini/licenses/LICENSES.md for its sources",
    "librispeech": "trained on LibriSpeech (CC-BY-4.0)",
}


def report_checkpoint(
    checkpoint: Path,
    folder: Path,
    data: SpeechDataModule,
    config: Mapping[str, Any],
    options: EvaluationOptions,
) -> list[Row]:
    """Measure a checkpoint beside its float start and its post-training twin; write and print the report.

    All ranks of a distributed run call it and share the utterances; the first one times the files, writes, and returns
    the rows (the others none).

    Writes `report.json`, `report.md`, `utterances.json`, `worst.json`, figures and one ONNX file a model into `folder`.
    """
    started = time.time()
    candidates = candidates_of(checkpoint, dict(config), options.twin)
    check_splits(data, candidates)
    heard = [listen(candidate, folder, data, options) for candidate in candidates]
    if rank_and_world()[0]:
        return []
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
        checkpoint_sha256=sha256_path(item.candidate.checkpoint),
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
    from qat.layers.swap import quant_layers

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
    write_text(folder / UTTERANCES_FILE, json.dumps(texts_of(heard), ensure_ascii=False) + "\n")
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


def sqnr_of(candidate: Candidate, data: SpeechDataModule) -> dict[str, float]:
    """Per-layer signal-to-quantization-noise ratio (dB) on a few dev utterances: the model against itself, off."""
    import copy

    reference = copy.deepcopy(candidate.module)
    reference.quantize(False)
    batches: Iterable[Batch] = data.loader(data.utterances("dev")[:8])
    return layer_sqnr(reference, candidate.module, batches, lambda model, b: model(b.signal, b.lengths))
