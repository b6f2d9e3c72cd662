"""From a checkpoint to measurements: export, transcribe the test sets with the exported files, guard, time."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch
from datamodules.utterance import Utterance
from qat.decoding.options import DecodingOptions
from qat.decoding.windows import WINDOW_S, WindowedRecogniser
from qat.evaluation import guards
from qat.evaluation.beams import measure_beams
from qat.evaluation.candidates import Candidate, candidates_of
from qat.evaluation.exported import ExportedModel, OpenRecogniser, export_candidate
from qat.evaluation.graphs import constants_sha256, size_mb
from qat.evaluation.measurement import Bits, Measurement, Timing
from qat.evaluation.options import EvaluationOptions
from qat.evaluation.parity import signal_of
from qat.evaluation.portable import float_layers, nodes_that_ran, without_integers
from qat.evaluation.sqnr import layer_sqnr
from qat.evaluation.transcripts import Split, Transcripts, read_splits, transcribe_split
from qat.layers.coverage import count_macs, coverage, side_in_float
from qat.layers.swap import quant_layers
from qat.models.ctc import CTCModule
from qat.runtime.attention_session import open_session
from qat.runtime.formats import ExportOptions, FileFormat
from qat.runtime.latency import measure_latency
from qat.system.ranks import rank_and_world

GUARD_UTTERANCES = 3  # of the first test set, on which logits must differ from float
SQNR_UTTERANCES = 8  # of dev
TYPICAL_TEXT = (
    "he turned on the light and read the letter again"  # four seconds: labels for one step of a decoder each
)


def measure(
    checkpoint: Path,
    folder: Path,
    data: SpeechDataModule,
    config: Mapping[str, Any],
    options: EvaluationOptions,
    open_recogniser: OpenRecogniser | None = None,
) -> list[Measurement]:
    """Measure a checkpoint beside its float start and its post-training twin, the float model first.

    All ranks of a distributed run call it and share the utterances; the first one guards and times, and returns the
    measurements (the others none).

    Args:
        checkpoint: of the model.
        folder: for one exported file or folder per model; all ranks must see it.
        data: the test sets, and what calibration saw.
        config: of the run; names the float start, and how to search where that is not the model's own way.
        options: how to measure.
        open_recogniser: opens what was exported, with its search; None: as `config` says.

    Raises:
        GuardError: a result that cannot be right.
        UserError: a search that the model cannot follow, or a format that the engine does not run.
    """
    decoding = DecodingOptions.from_dict(config.get("decoding") or {})
    file_format = ExportOptions.of(config).format_for(options.runner)
    open_recogniser = open_recogniser or partial(open_session, decoding=decoding, runner=options.runner)
    candidates = candidates_of(checkpoint, dict(config), options.twin, options.variants)
    splits = read_splits(data)
    check_calibration(data, splits, candidates)
    models = [export_candidate(item, folder, options, open_recogniser, file_format) for item in candidates]
    transcripts = {split.name: transcribe_split(models, split, data, options) for split in splits}
    if rank_and_world()[0]:
        return []
    measurements = [
        describe(model, {name: found[index] for name, found in transcripts.items()}, file_format)
        for index, model in enumerate(models)
    ]
    check_measurements(measurements)
    guarded = [signal_of(batch) for batch in data.loader(splits[0].utterances[:GUARD_UTTERANCES])]
    check_logits(models, guarded, options.window_s)
    signals = [signal_of(batch) for batch in data.loader(length_mix(splits, options.repeats))]
    timings = time_models(models, signals, options, decoding)
    measurements = [replace(item, timing=timing) for item, timing in zip(measurements, timings, strict=True)]
    own = max(place for place, model in enumerate(models) if not model.candidate.is_variant)
    measurements[own] = with_details(measurements[own], models[own], data, options, decoding)
    return measurements


def with_details(
    measurement: Measurement,
    model: ExportedModel,
    data: SpeechDataModule,
    options: EvaluationOptions,
    decoding: DecodingOptions,
) -> Measurement:
    """The measurement of the run's own model with what is measured of it alone, on dev: noise by layer, beams."""
    if model.is_integer:
        dev = data.loader(data.utterances("dev")[:SQNR_UTTERANCES])
        measurement = replace(measurement, sqnr_db=sqnr_of(model.candidate.module, dev))
    if options.beams:
        measurement = replace(measurement, beams=measure_beams(model.file, data, options, decoding))
    return measurement


def check_calibration(
    data: SpeechDataModule, splits: Sequence[Split], candidates: Sequence[Candidate]
) -> None:
    """Guard: neither calibration nor AdaRound may have seen what is evaluated."""
    for recipe in (item.module.recipe for item in candidates if item.module.recipe.active):
        count = max(recipe.calibration_utterances, recipe.reconstruction_utterances)
        seen = data.calibration_utterances(count, recipe.seed)
        for split in splits:
            guards.check_no_leak(seen, split.utterances, split.name, data.is_disjoint)


def describe(
    model: ExportedModel, transcripts: Mapping[str, Transcripts], file_format: FileFormat = "onnxruntime"
) -> Measurement:
    """The measurement of a model, not yet timed, from its file and its transcripts of each split."""
    candidate, is_integer = model.candidate, model.is_integer
    nodes, without = nodes_that_ran(model.recogniser, model.file), without_integers(model.recogniser)
    in_float = float_layers(candidate.module, nodes, file_format, without) if is_integer else {}
    return Measurement(
        name=candidate.name,
        model=type(candidate.module).__name__.removesuffix("Module"),
        method=candidate.method,
        precision="integer" if is_integer else "float",
        recipe=candidate.module.recipe.to_dict(),
        weight_bits=bits_of(candidate.module, "weight_bits"),
        activation_bits=bits_of(candidate.module, "activation_bits"),
        checkpoint_sha256=candidate.sha256,
        constants_sha256=constants_sha256(model.file) if is_integer else "",
        size_mb=size_mb(model.file),
        packed=model.packed,
        nodes=nodes,
        coverage=coverage_of(candidate.module, in_float) if is_integer else None,
        utterances={split: found.utterances for split, found in transcripts.items()},
        parity={split: found.parity for split, found in transcripts.items() if found.parity is not None},
        reconstruction=tuple(candidate.module.reconstruction),
        validated_on=candidate.module.validated_on,
        decoding=model.decoding,
        is_variant=candidate.is_variant,
        without_integers=without,
    )


def bits_of(module: CTCModule, name: str) -> Bits:
    """Bit width over the quantized layers: a number, or "4/8" when rules mix widths; None where all are float."""
    widths = {getattr(layer.layer_recipe, name) for _, layer in quant_layers(module)}
    known = sorted(width for width in widths if width)
    if not known:
        return None
    return known[0] if len(known) == 1 else "/".join(map(str, known))


def coverage_of(module: CTCModule, in_float: Mapping[str, str]) -> dict[str, Any]:
    """Shares of a quantized model that are quantized, and each layer that computes in float with its reason.

    Args:
        module: quantized.
        in_float: layers that the exported file computes in float all the same -> reason.
    """
    typical = Batch(torch.zeros(1, 64_000), torch.tensor([64_000]), [TYPICAL_TEXT], [""])
    shares = coverage(module, count_macs(module, lambda: module.posteriors(typical)), in_float)
    reasons = {**in_float, **dict(module.swap_report.skipped)}
    shares["skipped"] = [
        [name, reasons.get(name) or side_in_float(module.get_submodule(name)) or "the recipe is off"]
        for name in shares["skipped"]
    ]
    if module.equalized:
        left = [[item["pair"], item["reason"]] for item in module.equalized if "reason" in item]
        shares |= {"pairs_equalized": len(module.equalized) - len(left), "pairs_not_equalized": left}
    return shares


def check_measurements(measurements: Sequence[Measurement]) -> None:
    """Guards: integer arithmetic, no weight left in float unsaid, recipes that take effect."""
    for item in measurements:
        guards.check_integer_nodes(item)
        if item.coverage is not None:
            skipped = [name for name, _ in item.coverage["skipped"]]
            guards.check_float_compute(item.nodes.float_weights, skipped, f"{item.name}.onnx")
    guards.check_recipes_take_effect(
        [
            guards.IntegerFile(f"{item.name}.onnx", item.model, item.constants_sha256, item.recipe)
            for item in measurements
            if item.is_integer
        ]
    )
    guards.check_bits_differ([item for item in measurements if not item.is_variant])


def check_logits(models: Sequence[ExportedModel], signals: Sequence[Any], window_s: int = WINDOW_S) -> None:
    """Guard: the logits of an integer file are not those of the float file."""
    integer = [model for model in models[1:] if model.is_integer]
    reference = emitted(models[0], signals, window_s) if integer else []
    for model in integer:
        guards.check_logits_differ(reference, emitted(model, signals, window_s), model.file.name)


def emitted(model: ExportedModel, signals: Sequence[Any], window_s: int) -> list[Any]:
    """Logits of a file on each signal."""
    recogniser = WindowedRecogniser(model.recogniser, window_s)
    return [recogniser.emit(signal).logits for signal in signals]


def length_mix(splits: Sequence[Split], count: int) -> list[Utterance]:
    """`count` test utterances, evenly spaced over the sorted durations of all test sets."""
    every = sorted((item for split in splits for item in split.utterances), key=lambda item: item.duration_s)
    count = max(count, 1)
    return [every[(2 * index + 1) * len(every) // (2 * count)] for index in range(count)]


def time_models(
    models: Sequence[ExportedModel],
    signals: Sequence[Any],
    options: EvaluationOptions,
    decoding: DecodingOptions | None = None,
) -> list[Timing]:
    """Speed of each file beside the float file, which comes first; the two take turns."""
    pairs = []
    for model in models[1:] or models:
        print(f"timing {models[0].file.name} and {model.file.name} in turns", flush=True)
        pairs.append(
            measure_latency(
                models[0].file,
                model.file,
                signals,
                threads=options.threads,
                warmup=options.warmup,
                repeats=options.repeats,
                decoding=decoding,
                window_s=options.window_s,
                runner=options.runner,
            )
        )
    others = [timing_of(pair, "integer") for pair in pairs] if models[1:] else []
    return [timing_of(pairs[0], "float"), *others]


def timing_of(pair: Mapping[str, Any], side: str) -> Timing:
    """One side of two files that took turns."""
    is_float = side == "float"
    return Timing(
        engine=pair["engine"],
        provider=pair["provider"],
        device=pair["device"],
        latency_ms=pair[side]["latency_ms"],
        rtf=pair[side]["rtf"],
        peak_memory_mb=pair[side]["peak_memory_mb"],
        float_latency_ms=None if is_float else pair["float"]["latency_ms"],
        speedup=None if is_float else pair["speedup"],
        parts_ms=pair[side].get("parts_ms", {}),
    )


def run_every_layer(module: Any, batch: Batch) -> object:
    """All layers of a model, also those that its forward leaves to a search."""
    return module.posteriors(batch)


def sqnr_of(module: CTCModule, batches: Iterable[Batch]) -> dict[str, float]:
    """Per-layer signal-to-quantization-noise ratio (dB): the model against itself, its quantizers off."""
    reference = copy.deepcopy(module)
    reference.quantize(False)
    return layer_sqnr(reference, module, batches, run_every_layer)
