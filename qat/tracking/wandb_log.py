"""Weights & Biases: a logger that never asks and never blocks, and the report of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import soundfile
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from qat.report.row import Row
from qat.runs import UTTERANCES_FILE
from qat.system.files import write_text
from qat.tracking.wandb_mode import choose_mode

if TYPE_CHECKING:
    from wandb import Run


PROJECT = "speech-qat"
ID_FILE = "wandb_id"
LOGGED_FILE = "wandb_logged.json"
REPORT_FILES = ("report.json", UTTERANCES_FILE, "config.yaml")  # what `evaluate.py compare` needs of a run
REPORT_TYPE = "report"
START_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 120.0
WORST_COLUMNS = ("split", "id", "reference", "hypothesis", "errors", "reference_words", "wer", "duration_s")


class OnceLogger(WandbLogger):
    """Logs each row once: a resumed run repeats the steps behind its checkpoint, bit for bit, and W&B has them already.

    Args:
        path: keeps the last step logged of each set of metrics.
        kwargs: see `WandbLogger`.
    """

    def __init__(self, path: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.logged: dict[str, int] = json.loads(path.read_text()) if path.is_file() else {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """As `WandbLogger`, unless these metrics of this step or a later one were logged before."""
        key = " ".join(sorted(metrics))
        if step is None or step > self.logged.get(key, -1):
            super().log_metrics(metrics, step)  # type: ignore[arg-type]
            if step is not None:
                self.logged[key] = step
                write_text(self.path, json.dumps(self.logged))


def group_of(config: Mapping[str, Any]) -> str:
    """The group of a run by its configuration: the configured one, else its model's class."""
    model: Mapping[str, Any] = config.get("model") or {}
    group = (config.get("wandb") or {}).get("group")
    return str(group or str(model.get("class_path", "")).rpartition(".")[2])


def wandb_logger(
    run_dir: Path,
    project: str,
    name: str | None = None,
    group: str | None = None,
    config: Mapping[str, Any] | None = None,
    offline: bool | None = None,
) -> WandbLogger | None:
    """Start (or, in a folder that has a `wandb_id`, continue) a run.

    `WANDB_MODE` wins over `offline`; without either it is online when a key is stored and the server answers
    within seconds, offline otherwise. Nothing here prompts, and a server that fails falls back to offline.

    Args:
        run_dir: the run's folder; the W&B files and `wandb_id` go there.
        project: project name.
        name: run name; None takes the folder's.
        group: group of comparable runs.
        config: the whole configuration as nested builtins.
        offline: True never uses the network, None and False do when they can.

    Returns:
        The logger, or None when W&B is not installed, disabled or cannot start (one line says so).
    """
    mode, why = choose_mode(offline)
    if mode == "disabled":
        say(f"W&B: not used ({why}); metrics.csv has everything")
        return None
    if getattr(rank_zero_only, "rank", 0) != 0:  # other ranks get a logger that writes nothing
        return WandbLogger(project=project, save_dir=str(run_dir), offline=mode == "offline")
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            logger = start(run_dir, project, name or run_dir.name, group, attempt)
        except Exception as error:  # a report must not fail because of its messenger
            why = f"{attempt} start failed: {(str(error) or type(error).__name__).splitlines()[0]}"
            continue
        logger.experiment.config.update(dict(config or {}), allow_val_change=True)
        place = logger.experiment.url if attempt == "online" else run_dir / "wandb"
        say(f"W&B: {attempt} ({why}), run {logger.experiment.id} in {place}")
        return logger
    say(f"W&B: not used ({why}); metrics.csv has everything")
    return None


def start(run_dir: Path, project: str, name: str, group: str | None, mode: str) -> WandbLogger:
    """Start a run under the id stored in the folder; a new folder gets a new id."""
    import wandb

    run_dir.mkdir(parents=True, exist_ok=True)
    id_file = run_dir / ID_FILE
    run_id = id_file.read_text().strip() if id_file.exists() else uuid4().hex[:12]
    settings = wandb.Settings(init_timeout=START_TIMEOUT_S, silent=True)
    if hasattr(
        settings, "finish_timeout"
    ):  # newer versions: a network that went away must not hold the end up
        settings.finish_timeout = FINISH_TIMEOUT_S
    run = wandb.init(
        project=project,
        name=name,
        dir=str(run_dir),
        id=run_id,
        resume="allow",
        group=group,
        mode=mode,  # type: ignore[arg-type]
        reinit="finish_previous",
        settings=settings,
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    for metric, best in (("val/wer", "min"), ("val/loss", "min"), ("train/loss", "last")):
        run.define_metric(metric, step_metric="trainer/global_step", summary=best)
    if not id_file.exists():
        write_text(id_file, run_id + "\n")
    return OnceLogger(run_dir / LOGGED_FILE, experiment=run, project=project, save_dir=str(run_dir))


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
        files: exported files, kept together as one artifact.
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
                artifact = wandb.Artifact(f"{name}-{run.id}", type=kind, metadata={"rows": list(rows)})
                for path in paths:
                    artifact.add_file(str(path))
                run.log_artifact(artifact)
    except Exception as error:  # the report is on disk already
        say(f"W&B: the report was not logged completely ({type(error).__name__}: {error})")


def plain_cell(value: Any) -> Any:
    """A table's cell: lists and objects as text."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Flat summary keys: `SPLIT/FIELD` for a split's last row, `SPLIT/METHOD/FIELD` for those before it."""
    last = {row["split"]: index for index, row in enumerate(rows)}
    flat: dict[str, Any] = {}
    for index, row in enumerate(rows):
        prefix = row["split"] if index == last[row["split"]] else f"{row['split']}/{row['method']}"
        flat |= flatten({key: value for key, value in row.items() if key != "split"}, prefix)
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
) -> Any:
    """A `wandb.Table` of the utterances with most errors in any split; the first few can be heard."""
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


@rank_zero_only
def say(line: str) -> None:
    """One plain line."""
    print(line, file=sys.stderr, flush=True)
