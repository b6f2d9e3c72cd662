"""Finds the runs that a user names: folders, W&B run ids and groups, here or on the server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qat.report.compare import Comparison
from qat.report.compare_files import table
from qat.runs import CHECKPOINTS, CONFIG_FILE, REPORT_FILE, read_config
from qat.system.errors import UserError
from qat.tracking.wandb_mode import choose_mode
from qat.tracking.wandb_names import ID_FILE, PROJECT, REPORT_TYPE, START_TIMEOUT_S, group_of, print_notice


def find_runs(targets: Sequence[str]) -> list[Path]:
    """Folders of the named runs, each once, in order.

    A target is a run folder, a run's name, the W&B id of a run, or a W&B group (all its runs that are finished). Runs
    of this machine are found without a network; others are fetched from W&B as `[ENTITY/]PROJECT/ID` or by group.

    Raises:
        UserError: nothing of that name, or a run without a report.
    """
    found: dict[Path, None] = {}
    for target in targets:
        for folder in folders_of(target):
            found[folder] = None
    return list(found)


def folders_of(target: str) -> list[Path]:
    """Folders that one target means."""
    folder = Path(target) if Path(target).is_dir() else CHECKPOINTS / target
    if folder.is_dir():
        if not (folder / REPORT_FILE).is_file():
            raise UserError(
                f"{folder}: holds no report.json (the run has not finished, or was not measured: `python evaluate.py "
                f"report {target}`)"
            )
        return [folder]
    here = local_runs(target)
    if here:
        return here
    mode, why = choose_mode(None)
    if mode != "online":
        raise UserError(
            f"{target!r}: no run folder, and no W&B id or group of a finished run under {CHECKPOINTS} (W&B is not "
            f"asked: {why})"
        )
    return download(target)


def local_runs(target: str) -> list[Path]:
    """Finished runs of this machine whose W&B id or group is `target`, by name."""
    finished = sorted(path.parent for path in CHECKPOINTS.glob(f"*/{REPORT_FILE}"))
    ids = [folder for folder in finished if (folder / ID_FILE).is_file() and wandb_id(folder) == target]
    configs = {folder: folder / CONFIG_FILE for folder in finished}
    return ids or [
        folder
        for folder, config in configs.items()
        if config.is_file() and group_of(read_config(config)) == target
    ]


def wandb_id(folder: Path) -> str:
    """The W&B id that a run folder remembers."""
    return (folder / ID_FILE).read_text().strip()


def download(target: str) -> list[Path]:
    """Fetch the report of a W&B run (`[ENTITY/]PROJECT/ID`, or an id or group of the project `speech-qat`).

    Raises:
        UserError: the server knows no such run, or the run has no report.
    """
    import wandb

    api = wandb.Api(timeout=int(START_TIMEOUT_S))
    path = target if "/" in target else f"{PROJECT}/{target}"
    try:
        runs = [api.run(path)]
    except (wandb.errors.CommError, ValueError):
        project, _, group = path.rpartition("/")
        try:
            runs = list(api.runs(project, filters={"group": group}))
        except (wandb.errors.CommError, ValueError) as error:
            raise UserError(f"{target!r}: W&B has no such run or group ({error})") from None
    folders = [fetch(run) for run in runs]
    if not any(folders):
        raise UserError(f"{target!r}: no run of that id or group on W&B holds a report")
    return [folder for folder in folders if folder is not None]


def fetch(run: Any) -> Path | None:
    """The newest report of one W&B run, in a folder of its own; None where it has none."""
    reports = [item for item in run.logged_artifacts() if item.type == REPORT_TYPE]
    if not reports:
        print_notice(f"W&B: run {run.name} holds no report and is left out")
        return None
    folder = CHECKPOINTS / "wandb" / f"{run.name}-{run.id}"
    reports[-1].download(root=str(folder))
    return folder


def log_comparison(found: Comparison, folder: Path) -> None:
    """Log the table of a comparison, with its figures, as a run of its own; offline without a key."""
    mode, why = choose_mode(None)
    if mode == "disabled":
        print_notice(f"W&B: not used ({why}); {folder} has everything")
        return
    import wandb

    titles, lines = table(found)
    try:
        with wandb.init(
            project=PROJECT,
            job_type="compare",
            name=folder.name,
            dir=str(folder),
            mode=mode,
            reinit="finish_previous",
            settings=wandb.Settings(init_timeout=START_TIMEOUT_S, silent=True),
        ) as run:
            run.log({"comparison": wandb.Table(columns=list(titles), data=lines, allow_mixed_types=True)})
            run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))})
    except Exception as error:  # the comparison is on disk already
        print_notice(f"W&B: the comparison was not logged ({type(error).__name__}: {error})")
        return
    print_notice(f"W&B: {mode} ({why}), comparison in {folder / 'wandb'}")
