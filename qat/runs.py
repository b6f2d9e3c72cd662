"""Run folders: choosing one, what lies in it, and how to find it from what a user types."""

from __future__ import annotations

import hashlib
import os
import time
from itertools import count
from pathlib import Path
from typing import Any

from qat.system.errors import UserError, first_line
from qat.system.files import remove_torn, sha256_file
from qat.system.lock import LOCK_FILE, NO_LOCKS, holder_of, release, try_hold
from qat.system.nearest import did_you_mean
from qat.system.ranks import launched_rank

CHECKPOINTS = Path("checkpoints")
RUN_VARIABLE = "SPEECH_QAT_RUN"
MODEL_FILE = "model.ckpt"
PTQ_FILE = "ptq.ckpt"
LAST_FILE = "last.ckpt"
BEFORE_LAST_FILE = "before_last.ckpt"
CONFIG_FILE = "config.yaml"
START_FILE = "start.json"  # path and hash of the float start
# options of models that name it; the first given one wins
START_KEYS = ("init_from", "pretrained", "speechbrain")
REPORT_FILE = "report.json"
UTTERANCES_FILE = "utterances.json"
WORST_FILE = "worst.json"
METRICS_FILE = "metrics.csv"
SEARCH_FOLDER = "search"  # beside the checkpoint: what a search for a recipe found
RECIPE_FILE, PARETO_FILE = "recipe.yaml", "pareto.png"  # in it
LEFT_BY_A_START = {  # before there is a checkpoint
    *(CONFIG_FILE, START_FILE, METRICS_FILE, LOCK_FILE, "hparams.yaml"),
    *("wandb", "wandb_id", "wandb_logged.json"),
}
SPEECHBRAIN_FILE = "hyperparams.yaml"  # what a pretrained folder of SpeechBrain is known by
# all that such a folder's model is made of, and a Hugging Face folder's
SPEECHBRAIN_PARTS = ("*.yaml", "*.ckpt", "*.json", "*.txt", "*.model")
FOLDER_PARTS = (*SPEECHBRAIN_PARTS, "*.safetensors", "*.bin", "*.pt")


def choose_run_folder(config: Any) -> Path:
    """`checkpoints/NAME`, or a path of the user's own, refusing one that holds another run.

    Raises:
        UserError: the folder is in use, or several processes cannot know a common name.
    """
    name = config["run"] or (os.environ.get(RUN_VARIABLE) if launched_rank() else None)
    if not name and started_outside():
        raise UserError(
            "--run: must be given where torchrun or srun starts every process by itself, so that all share one name"
        )
    if not name:
        model = config["model"]["class_path"].rpartition(".")[2].removesuffix("Module").lower()
        name = f"{model}-{config['qat']['preset']}-{time.strftime('%Y%m%d-%H%M%S')}"
    os.environ[RUN_VARIABLE] = name  # the other processes of a DDP run inherit it
    refuse_used_folder(name, resumes=config["ckpt_path"] is not None)
    return folder_of(name)


def folder_of(name: str) -> Path:
    """The folder of a run's name, or the path that a user has given in its place.

    >>> str(folder_of("mine")), str(folder_of("/data/mine"))
    ('checkpoints/mine', '/data/mine')
    """
    return Path(name) if os.sep in name else CHECKPOINTS / name


def refuse_used_folder(name: str, resumes: bool) -> None:
    """Refuse to start a run in a folder that holds something, on the first rank.

    Raises:
        UserError: it does.
    """
    folder = folder_of(name)
    if launched_rank() == 0 and not resumes and holds_run(folder):
        raise UserError(used(folder))


def used(folder: Path) -> str:
    """What is said of a new run's folder that holds a run."""
    return (
        f"--run {name_of(folder)}: must name a new run, and {folder} already holds one; choose another name, or resume "
        "it with --ckpt_path last"
    )


def in_use(folder: Path) -> str:
    """What is said of a folder that another living process uses."""
    return (
        f"--run {name_of(folder)}: must be no other process's, and {folder} is in use by {holder_of(folder)}; wait for "
        "its end, or choose another name"
    )


def name_of(folder: Path) -> str:
    """The name of a run from its folder, as a user types it."""
    return folder.name if folder.parent == CHECKPOINTS else str(folder)


def holds_run(folder: Path) -> bool:
    """Whether a folder holds more than what a start that failed leaves, which the next one may take over.

    Metrics of a run that was to keep no checkpoints, and a `config.yaml` that no run has written, are more as well.
    """
    if not folder.is_dir():
        return False
    names = {item.name for item in folder.iterdir() if not item.match(".*.part")}
    if names - LEFT_BY_A_START:
        return True
    if CONFIG_FILE not in names:
        return False
    try:
        config = read_config(folder / CONFIG_FILE)
    except (UserError, FileNotFoundError):
        # another process, which takes over, may have removed it meanwhile
        return (folder / CONFIG_FILE).is_file()
    if not {"run", "ckpt_path", "save_every_steps"} <= set(config):  # a run writes every option
        return True
    return METRICS_FILE in names and (config.get("trainer") or {}).get("enable_checkpointing") is False


def checkpoint_to_resume(folder: Path, choice: str) -> Path:
    """The file that `--ckpt_path` names: `last` or `best` of the run's folder, or a path.

    Raises:
        UserError: there is no such file.
    """
    path = folder / f"{choice}.ckpt" if choice in ("last", "best") else Path(choice)
    if not path.is_file():
        where = f"{folder} holds no {path.name}" if choice in ("last", "best") else "there is no such file"
        raise UserError(f"--ckpt_path {choice}: must be last, best or a checkpoint file; {where}")
    return path


def started_outside() -> bool:
    """Whether a launcher other than Lightning's started several processes."""
    ranked = {"RANK", "SLURM_PROCID"} & set(os.environ)
    return bool(ranked) and int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1


def make_run_folder(folder: Path, resumes: bool = False, named: bool = True) -> Path:
    """Create a run's folder and hold it to the end of this process, on the first rank.

    Of several processes that start at once one gets the folder.

    Args:
        folder: of the run.
        resumes: it may hold a run.
        named: the user has chosen the name; else a name that is taken gets a suffix.

    Returns:
        The folder.

    Raises:
        UserError: it cannot be written, holds a run, or another process uses it.
    """
    if launched_rank() != 0:
        return folder
    release()  # a process has one run at a time
    place = folder
    try:
        if not folder.parent.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
        for number in count(2):
            why = claim(place, resumes)
            if not why:
                break
            if named:
                raise UserError(why)
            place = folder.with_name(f"{folder.name}-{number}")
        clear(place, resumes)
    except OSError as error:
        raise UserError(f"--run: {place} must be writable ({error.strerror})") from None
    if not named:
        os.environ[RUN_VARIABLE] = place.name
    return place


def claim(folder: Path, resumes: bool) -> str:
    """Make a folder this process's, all at once; empty, or why it is another's.

    Raises:
        OSError: it cannot be made or written.
    """
    try:
        folder.mkdir()
        fresh = True
    except FileExistsError:
        if not folder.is_dir():
            raise
        fresh = resumes or not any(folder.iterdir())
    if not resumes and holds_run(folder):
        return used(folder)
    try:
        if not try_hold(folder):
            return in_use(folder)
    except OSError as error:
        if error.errno not in NO_LOCKS or not fresh:
            raise
    if not resumes and holds_run(folder):  # another process has begun and ended it meanwhile
        release(folder)
        return used(folder)
    return ""


def clear(folder: Path, resumes: bool) -> None:
    """Remove what a process that was killed has half written and, of a new run's folder, what a failed start left.

    Raises:
        OSError: it cannot be removed.
    """
    remove_torn(folder)
    left = [] if resumes else [item for item in folder.iterdir() if item.name != LOCK_FILE]
    if left:
        print(f"{folder}: holds no checkpoint; this run takes it over", flush=True)
    for item in left:
        if item.is_file():  # W&B's folder keeps runs by their ids
            item.unlink()


def find_checkpoint(target: str) -> Path:
    """The checkpoint a user means: a file, a run folder, a run's name, or a pretrained folder of SpeechBrain.

    Raises:
        UserError: nothing of that name, or a folder without a finished model.
    """
    path = Path(target)
    if path.is_file():
        return path
    folder = path if path.is_dir() else CHECKPOINTS / target
    if not folder.is_dir():
        known = sorted(item.name for item in CHECKPOINTS.glob("*/")) if CHECKPOINTS.is_dir() else []
        raise UserError(
            f"{target!r}: must be a checkpoint file or one of the runs here, {', '.join(known) or 'none'}"
            f"{did_you_mean(target, known)}"
        )
    if not (folder / MODEL_FILE).is_file():
        if (folder / SPEECHBRAIN_FILE).is_file():
            return folder / SPEECHBRAIN_FILE
        if (folder / "config.json").is_file() and not (folder / CONFIG_FILE).is_file():
            raise UserError(
                f"{folder}: a Hugging Face folder, must be a run or a checkpoint; make one with "
                f"`train.py --config configs/librispeech_wav2vec2.yaml --qat ptq_max --model.pretrained {folder}`"
            )
        raise UserError(
            f"{folder}: must hold {MODEL_FILE}, as a finished run does; resume the run with --ckpt_path last"
        )
    return folder / MODEL_FILE


def sha256_of_checkpoint(checkpoint: Path) -> str:
    """Hex digest of all that a checkpoint's model is made of, by which models are told apart (times tell nothing).

    Args:
        checkpoint: a file, or a pretrained model's folder; the `hyperparams.yaml` of a folder of SpeechBrain stands for
            the folder.

    Raises:
        OSError: a file cannot be read.
    """
    folder = checkpoint.parent if checkpoint.name == SPEECHBRAIN_FILE else checkpoint
    if not folder.is_dir():
        return sha256_file(checkpoint)
    parts = sorted({path for pattern in FOLDER_PARTS for path in folder.glob(pattern)})
    lines = [f"{path.name} {sha256_file(path)}\n" for path in parts if path.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file as nested builtins.

    Raises:
        UserError: missing or not a YAML mapping.
    """
    if not path.is_file():
        near = did_you_mean(str(path), (str(item) for item in path.parent.glob("*.y*ml")))
        raise UserError(f"{path}: must be an existing configuration file{near}")
    import yaml  # a folder of an exported model is read without it

    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: must be YAML ({first_line(error)})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: must be a mapping of settings")
    return config


def start_of(config: dict[str, Any]) -> str:
    """The float checkpoint or pretrained model that a configuration starts from; empty where it names none."""
    arguments = (config.get("model") or {}).get("init_args") or {}
    names = (arguments.get(key) for key in START_KEYS)
    return str(next((name for name in names if name), ""))
