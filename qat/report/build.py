"""The report of a checkpoint: measure, make rows, write files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.base import SpeechDataModule
from datamodules.leaks import SharedTexts, shared_texts
from qat.evaluation.error_rates import worst_utterances
from qat.evaluation.measure import measure
from qat.evaluation.measurement import Conditions, Measurement, own_last
from qat.evaluation.options import EvaluationOptions
from qat.report.figures import draw_all
from qat.report.model_card import write_model_card
from qat.report.row import Row, save_report
from qat.report.rows import rows_of
from qat.report.tables import write_report_markdown
from qat.report.terminal import print_table
from qat.report.utterance_files import save_utterances, save_worst
from qat.runs import METRICS_FILE, RECIPE_FILE, REPORT_FILE, SEARCH_FOLDER, UTTERANCES_FILE, WORST_FILE
from qat.system.errors import UserError
from qat.system.provenance import config_sha256, provenance


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

    Writes `report.json`, `report.md`, `README.md`, `utterances.json`, `worst.json`, figures and one exported
    file or folder per model into `folder`.
    """
    started = time.time()
    measurements = measure(checkpoint, folder, data, config, options)
    if not measurements:
        return []
    rows = rows_of(measurements, conditions_of(folder.name, data, config, options, started))
    write_report(folder, rows, measurements, options.worst)
    write_model_card(folder, rows, config)
    return rows


def conditions_of(
    run: str,
    data: SpeechDataModule,
    config: Mapping[str, Any],
    options: EvaluationOptions,
    started: float,
) -> Conditions:
    """What the measurements of a report share; `started` is `time.time()` at its beginning."""
    seed = config.get("seed_everything")
    shared = texts_of(data)
    return Conditions(
        run=run,
        dataset=type(data).__name__.removesuffix("DataModule").lower(),
        seed=seed if isinstance(seed, int) else 0,
        bootstrap_seed=options.seed,
        threads=options.threads,
        batch_size=1,
        warmup=options.warmup,
        repeats=options.repeats,
        config_sha256=config_sha256(config),
        provenance=provenance(started),
        window_s=options.window_s,
        texts_in_train=shared.counts,
        trained_on=None if shared.is_whole else shared.compared,
    )


def texts_of(data: SpeechDataModule) -> SharedTexts:
    """The test sets' texts that are in train too; none where train is no longer there, which a report does not need."""
    try:
        return shared_texts(data)
    except UserError:
        return SharedTexts()


def write_report(
    folder: Path, rows: Sequence[Row], measurements: Sequence[Measurement], worst: int = 50
) -> None:
    """Write rows, tables, utterances and figures of one report; print the table.

    Args:
        folder: of the run.
        rows: of the measurements.
        measurements: the float model first.
        worst: utterances kept in `worst.json` per split.
    """
    own = own_last(measurements)[-1]
    save_utterances(folder / UTTERANCES_FILE, measurements)
    save_report(folder / REPORT_FILE, rows)
    write_report_markdown(
        folder / "report.md", rows, folder.name, own.reconstruction, own.beams, searched_recipe(folder)
    )
    save_worst(
        folder / WORST_FILE,
        {split: worst_utterances(utterances, worst) for split, utterances in own.utterances.items()},
    )
    metrics = folder / METRICS_FILE
    draw_all(folder, rows, own.sqnr_db, metrics if metrics.is_file() else None)
    print_table(
        rows, f"{folder}: word error rate with 95 % intervals, latency and size of the exported files"
    )
    print(f"report: {folder / 'report.md'}", flush=True)


def searched_recipe(folder: Path) -> str:
    """Text of the recipe that a search found for a run, with its reasons; "" for a run with a preset."""
    path = folder / SEARCH_FOLDER / RECIPE_FILE
    return path.read_text() if path.is_file() else ""
