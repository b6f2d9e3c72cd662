"""The report of a run on Weights & Biases: summary, worst utterances, pictures and files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qat.report.row import Row
from qat.tracking.wandb_names import REPORT_TYPE, print_notice

if TYPE_CHECKING:
    from wandb import Run, Table

WORST_COLUMNS = ("split", "id", "reference", "hypothesis", "errors", "reference_words", "wer", "duration_s")


def log_report(
    run: Run | None,
    rows: Sequence[Row],
    worst: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    audio_paths: Mapping[str, Path] | None = None,
    figures: Sequence[Path] = (),
    files: Sequence[Path] = (),
    report: Sequence[Path] = (),
) -> None:
    """Put the report into a run: summary, worst utterances with sound, pictures, exported files.

    Args:
        run: `logger.experiment`, or None, which does nothing.
        rows: the report.
        worst: split -> utterances as `load_worst` gives; the 50 with most errors are shown.
        audio_paths: utterance id -> audio file; the first 5 shown get a player.
        figures: pictures.
        files: exported files and folders, kept together as one artifact.
        report: rows, texts and settings, kept as another, which `evaluate.py compare` fetches.
    """
    if run is None:
        return
    import wandb

    try:
        run.summary.update(summary(rows))
        if worst:
            run.log({"worst_utterances": worst_table(worst, audio_paths or {})})
        if figures:
            run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
        for name, kind, paths in (("exported", "model", files), ("report", REPORT_TYPE, report)):
            if paths:
                artifact = wandb.Artifact(
                    f"{name}-{run.id}", type=kind, metadata={"rows": [row.to_dict() for row in rows]}
                )
                for path in paths:
                    if path.is_dir():
                        artifact.add_dir(str(path), name=path.name)
                    else:
                        artifact.add_file(str(path))
                run.log_artifact(artifact)
    except Exception as error:  # the report is on disk already
        print_notice(f"W&B: the report was not logged completely ({type(error).__name__}: {error})")


def plain_cell(value: Any) -> Any:
    """A table's cell: lists and objects as text."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Flat summary keys: `SPLIT/FIELD` for a split's last row, `SPLIT/METHOD/FIELD` for those before it."""
    last = {row.split: index for index, row in enumerate(rows)}
    flat: dict[str, Any] = {}
    for index, row in enumerate(rows):
        prefix = row.split if index == last[row.split] else f"{row.split}/{row.method}"
        flat |= flatten({key: value for key, value in row.to_dict().items() if key != "split"}, prefix)
    return flat


def flatten(value: Any, prefix: str) -> dict[str, Any]:
    """Nested objects to "/" keys; nulls are left out, lists stay.

    >>> flatten({"wer": 3.2, "latency_ms": {"p50": 12.0, "p95": None}}, "test")
    {'test/wer': 3.2, 'test/latency_ms/p50': 12.0}
    """
    if not isinstance(value, Mapping):
        return {} if value is None else {prefix: value}
    return {
        key: item for name, inner in value.items() for key, item in flatten(inner, f"{prefix}/{name}").items()
    }


def worst_table(
    worst: Mapping[str, Sequence[Mapping[str, Any]]],
    audio_paths: Mapping[str, Path],
    count: int = 50,
    with_audio: int = 5,
) -> Table:
    """A `wandb.Table` of the utterances with most errors in any split; the first few can be played."""
    import soundfile
    import wandb

    lines = [{"split": split, **item} for split, items in worst.items() for item in items]
    lines = sorted(lines, key=lambda line: -line["errors"])[:count]
    table = wandb.Table(columns=[*WORST_COLUMNS, "audio"])
    for line in lines:
        path = audio_paths.get(line["id"]) if with_audio > 0 else None
        sound = None
        if path is not None and Path(path).is_file():
            samples, rate = soundfile.read(str(path), dtype="float32")
            sound, with_audio = (
                wandb.Audio(samples, sample_rate=rate, caption=line["reference"]),
                with_audio - 1,
            )
        table.add_data(*(line.get(column) for column in WORST_COLUMNS), sound)
    return table
