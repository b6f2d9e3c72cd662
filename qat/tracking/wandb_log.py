"""Weights & Biases: a logger that never asks and never blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from qat.system.errors import first_line
from qat.system.files import write_text
from qat.system.ranks import launched_rank
from qat.tracking.wandb_mode import Mode, choose_mode
from qat.tracking.wandb_names import FINISH_TIMEOUT_S, ID_FILE, LOGGED_FILE, START_TIMEOUT_S, print_notice


class OnceLogger(WandbLogger):
    """Logs each row once: a resumed run repeats the steps after its checkpoint, bit for bit, and W&B has them already.

    Args:
        path: keeps the last step logged of each set of metrics.
        kwargs: see `WandbLogger`.
    """

    def __init__(self, path: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.logged: dict[str, int] = json.loads(path.read_text()) if path.is_file() else {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """As `WandbLogger`, unless these metrics of this step or a later one were logged before."""
        key = " ".join(sorted(metrics))
        if step is None or step > self.logged.get(key, -1):
            super().log_metrics(metrics, step)
            if step is not None:
                self.logged[key] = step
                write_text(self.path, json.dumps(self.logged))


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
        print_notice(f"W&B: not used ({why}); metrics.csv has everything")
        return None
    if launched_rank() != 0:  # other ranks get a logger that writes nothing
        return WandbLogger(project=project, save_dir=str(run_dir), offline=mode == "offline")
    attempts: tuple[Mode, ...] = (mode, "offline")
    for attempt in dict.fromkeys(attempts):
        try:
            logger = start(run_dir, project, name or run_dir.name, group, attempt)
        except Exception as error:  # a report must not fail because of its messenger
            why = f"{attempt} start failed: {first_line(error)}"
            continue
        logger.experiment.config.update(dict(config or {}), allow_val_change=True)
        place = logger.experiment.url if attempt == "online" else run_dir / "wandb"
        print_notice(f"W&B: {attempt} ({why}), run {logger.experiment.id} in {place}")
        return logger
    print_notice(f"W&B: not used ({why}); metrics.csv has everything")
    return None


def start(run_dir: Path, project: str, name: str, group: str | None, mode: Mode) -> WandbLogger:
    """Start a run under the id stored in the folder; a new folder gets a new id."""
    import wandb

    run_dir.mkdir(parents=True, exist_ok=True)
    id_file = run_dir / ID_FILE
    run_id = id_file.read_text().strip() if id_file.exists() else uuid4().hex[:12]
    settings = wandb.Settings(init_timeout=START_TIMEOUT_S, silent=True)
    if hasattr(settings, "finish_timeout"):  # newer versions: a lost network must not delay the end
        settings.finish_timeout = FINISH_TIMEOUT_S
    run = wandb.init(
        project=project,
        name=name,
        dir=str(run_dir),
        id=run_id,
        resume="allow",
        group=group,
        mode=mode,
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
