"""Run folders: choosing one, what lies in it, and how to find it from what a user types."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

from qat.system.errors import UserError
from qat.system.files import sha256_file, sha256_path
from qat.system.nearest import did_you_mean
from qat.system.ranks import launched_rank

CHECKPOINTS = Path("checkpoints")
RUN_VARIABLE = "SPEECH_QAT_RUN"
MODEL_FILE = "model.ckpt"
PTQ_FILE = "ptq.ckpt"
LAST_FILE = "last.ckpt"
BEFORE_LAST_FILE = "before_last.ckpt"
CONFIG_FILE = "config.yaml"
REPORT_FILE = "report.json"
UTTERANCES_FILE = "utterances.json"
WORST_FILE = "worst.json"
METRICS_FILE = "metrics.csv"
SPEECHBRAIN_FILE = "hyperparams.yaml"  # what a pretrained folder of SpeechBrain is known by
SPEECHBRAIN_PARTS = (
    "*.yaml",
    "*.ckpt",
    "*.json",
    "*.txt",
    "*.model",
)  # all that such a folder's model is made of


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
    if launched_rank() == 0 and not resumes and folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"--run {name}: must name a new run, and {folder} already holds one; choose another name, or resume it "
            "with --ckpt_path last"
        )


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


def make_run_folder(folder: Path) -> None:
    """Create the folder and check that it can be written.

    Raises:
        UserError: it cannot.
    """
    if launched_rank() != 0:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob(".*.part"):  # a run that was killed while it wrote
            shutil.rmtree(torn) if torn.is_dir() else torn.unlink()
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--run: {folder} must be writable ({error.strerror})") from None


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
        raise UserError(
            f"{folder}: must hold {MODEL_FILE}, as a finished run does; resume the run with --ckpt_path last"
        )
    return folder / MODEL_FILE


def sha256_of_checkpoint(checkpoint: Path) -> str:
    """Hex digest of all that a checkpoint's model is made of, by which models are told apart (times tell nothing).

    Args:
        checkpoint: a file, a Hugging Face model's folder, or the `hyperparams.yaml` of a folder of SpeechBrain, which
            stands for the parameters beside it as well.

    Raises:
        OSError: a file cannot be read.
    """
    if checkpoint.name != SPEECHBRAIN_FILE:
        return sha256_path(checkpoint)
    parts = sorted({path for pattern in SPEECHBRAIN_PARTS for path in checkpoint.parent.glob(pattern)})
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
        raise UserError(f"{path}: must be YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: must be a mapping of settings")
    return config


def start_of(config: dict[str, Any]) -> str:
    """The float checkpoint or pretrained model that a configuration starts from; empty where it names none."""
    arguments = (config.get("model") or {}).get("init_args") or {}
    names = (arguments.get(key) for key in ("init_from", "pretrained", "speechbrain"))
    return str(next((name for name in names if name), ""))
