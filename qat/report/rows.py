"""Measurements -> rows: a pure function, so that the same measurements give the same report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qat.evaluation.error_rates import error_fields
from qat.evaluation.measurement import Conditions, Measurement, own_last
from qat.report.cells import VARIANT
from qat.report.row import Row, build_row

NULL_OF_THE_FLOAT_ROW = (
    *("delta_wer_vs_float", "float_latency_ms", "speedup", "float_size_mb"),
    *("coverage", "parity"),
)


def rows_of(measurements: Sequence[Measurement], conditions: Conditions) -> list[Row]:
    """One row per test split and model, splits in turn, the run's own model last.

    Args:
        measurements: the float model first, which the others are compared with; all of the same utterances.
        conditions: what they share.
    """
    reference = measurements[0]
    return [
        row_of(item, reference, split, conditions)
        for split in reference.utterances
        for item in own_last(measurements)
    ]


def row_of(item: Measurement, reference: Measurement, split: str, conditions: Conditions) -> Row:
    """One model on one split."""
    is_float = item is reference
    baseline = None if is_float else reference.utterances[split]
    recipe = item.recipe
    return build_row(
        run=conditions.run,
        model=item.model,
        method=item.method,
        weight_bits=item.weight_bits,
        activation_bits=item.activation_bits,
        rounding=recipe["rounding"] if item.is_integer and item.method != "ptq" else None,
        seed=conditions.seed,
        dataset=conditions.dataset,
        split=split,
        **error_fields(item.utterances[split], conditions.bootstrap_seed, baseline),
        texts_in_train=conditions.texts_in_train.get(split) if conditions.trained_on is None else None,
        decoding=item.decoding or None,
        **speed_fields(item),
        size_mb=item.size_mb,
        float_size_mb=None if is_float else reference.size_mb,
        precision=item.precision,
        threads=conditions.threads,
        batch_size=conditions.batch_size,
        warmup=conditions.warmup,
        repeats=conditions.repeats,
        coverage=item.coverage,
        integer_nodes=len(item.nodes.integer),
        float_compute_nodes=len(item.nodes.float_compute),
        parity=item.parity.get(split),
        config_sha256=conditions.config_sha256,
        checkpoint_sha256=item.checkpoint_sha256,
        notes=[
            *notes_of(item, is_float),
            *window_notes(item, split, conditions.window_s),
            *text_notes(split, conditions),
        ],
        **conditions.provenance,
    )


def speed_fields(item: Measurement) -> dict[str, Any]:
    """Latency and memory of a row, and latency of the float file beside it; none where it was not timed."""
    timing = item.timing
    if timing is None:
        return {}
    return {
        "engine": timing.engine,
        "provider": timing.provider,
        "device": timing.device,
        "latency_ms": timing.latency_ms,
        "parts_ms": timing.parts_ms or None,
        "rtf": timing.rtf,
        "peak_memory_mb": timing.peak_memory_mb,
        "float_latency_ms": timing.float_latency_ms,
        "speedup": timing.speedup,
    }


def window_notes(item: Measurement, split: str, window_s: int) -> list[str]:
    """How long utterances were read, where there are any."""
    long = sum(utterance.duration_s > window_s for utterance in item.utterances[split])
    if not long:
        return []
    return [
        f"utterances: {long} of more than {window_s} s, read in windows that are joined where it is quiet"
    ]


def text_notes(split: str, conditions: Conditions) -> list[str]:
    """How many texts are in the part of a training stream that was compared, where it was not compared as a whole."""
    if conditions.trained_on is None:
        return []
    return [
        f"texts_in_train: {split}: {conditions.texts_in_train[split]} in the first {conditions.trained_on} utterances "
        "of the training stream, which is too long to count in"
    ]


def notes_of(item: Measurement, is_float: bool) -> list[str]:
    """Why fields of a row are null, what its integer nodes stand for, and which arithmetic dev error rates have."""
    if is_float:
        return [f"{name}: this is the float row" for name in NULL_OF_THE_FLOAT_ROW]
    if not item.is_integer:
        return [f"{name}: a float model" for name in ("coverage", "parity")]
    blocks = list(item.nodes.integer.values()).count("MatMulNBits")
    notes = [f"parity: {VARIANT}"] if item.is_variant else []
    if item.without_integers:
        notes.append(f"integer_nodes: {item.without_integers}")
    if item.validated_on != "cpu":
        notes.append(
            "dev WER: training.png and metrics.csv show it in training's arithmetic on a GPU; this report measures the "
            "exported file"
        )
    if item.packed:
        notes.append(
            f"integer_nodes: {item.packed} weights of 2 to 4 bits are unpacked at load and computed on int8"
        )
    if blocks:
        notes.append(
            f"integer_nodes: {blocks} linear layers compute on 4-bit weights as stored, int8 activations"
        )
    return notes
