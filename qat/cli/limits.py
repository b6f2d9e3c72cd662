"""What Lightning's Trainer may be told, checked before anything is built: it finds most of it late, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from qat.system.errors import UserError

LEAST_WHOLE = {  # field -> least value; null keeps Lightning's default
    **{"num_nodes": 1, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1},
    **{"max_epochs": -1, "max_steps": -1, "num_sanity_val_steps": -1},
    **{"min_epochs": 0, "min_steps": 0, "log_every_n_steps": 0, "reload_dataloaders_every_n_epochs": 0},
    **{"fast_dev_run": 0},
}
BATCHES = (  # a number of batches, or a share of them
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
    *("overfit_batches", "val_check_interval"),
)
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
OTHER_NAMES = ("32", "16", "bf16")  # Lightning's, of the same three
CLIPPING = ("norm", "value")
LARGEST_SEED = 2**32 - 1
SECTIONS = ("trainer", "model", "data", "qat", "export", "evaluation", "decoding", "wandb")


def check_sections(config: Mapping[str, Any]) -> None:
    """Refuse a value where a configuration file must have a mapping of options.

    Raises:
        UserError: naming the section.
    """
    for name in SECTIONS:
        section = config.get(name)
        if isinstance(section, str | int | float | list):
            refuse(name, section, "a mapping of options")


def check_trainer(trainer: Mapping[str, Any], seed: int | bool | None) -> None:
    """Refuse values of `--trainer.*` and `--seed_everything` that cannot work.

    Args:
        trainer: the parsed fields of the Trainer.
        seed: of the run; true draws one.

    Raises:
        UserError: naming flag, value and what is allowed.
    """
    for name, least in LEAST_WHOLE.items():
        value = trainer.get(name)
        if value is not None and value < least:
            refuse(f"trainer.{name}", value, f"a whole number from {least}")
    for name in BATCHES:
        check_batches(f"trainer.{name}", trainer.get(name), least=1 if name == "val_check_interval" else 0)
    clip = trainer.get("gradient_clip_val")
    if clip is not None and not (isfinite(clip) and clip >= 0):
        refuse("trainer.gradient_clip_val", clip, "a number from 0, or null")
    if (rule := trainer.get("gradient_clip_algorithm")) not in (None, *CLIPPING):
        refuse("trainer.gradient_clip_algorithm", rule, " or ".join(CLIPPING))
    if (bits := trainer.get("precision")) is not None and str(bits) not in (*PRECISIONS, *OTHER_NAMES):
        refuse("trainer.precision", bits, ", ".join(PRECISIONS), "; quantizers compute in float32")
    if trainer.get("max_epochs") == -1 and trainer.get("max_steps", -1) == -1:
        refuse("trainer.max_epochs", -1, "a whole number from 0", ", as the learning rate decays to an end")
    check_devices(trainer.get("devices"))
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        refuse("seed_everything", seed, f"a whole number from 0 to {LARGEST_SEED}, true or false")


def check_batches(flag: str, value: Any, least: int) -> None:
    """Refuse what is neither a number of batches nor a share; times, which Lightning takes as well, are left to it.

    Raises:
        UserError: naming the flag.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    good = value >= least if isinstance(value, int) else 0.0 <= value <= 1.0 and (value > 0 or not least)
    if not good:
        share = "from 0 to 1" if not least else "above 0, up to 1"
        refuse(
            flag, value, f"a whole number of batches from {least}, or a share with a decimal point {share}"
        )


def check_devices(value: Any) -> None:
    """Refuse a number of devices below one (-1: all), and indices below zero.

    Raises:
        UserError: naming the flag.
    """
    if isinstance(value, str) and value != "auto":
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not parts or not all(part.lstrip("-").isdecimal() for part in parts):
            refuse("trainer.devices", value, "auto, a number from 1, -1 for all, or a list of indices")
        value = [int(part) for part in parts] if "," in value else int(value)
    if isinstance(value, int) and value < 1 and value != -1:
        refuse("trainer.devices", value, "auto, a number from 1, -1 for all, or a list of indices")
    if isinstance(value, list) and (not value or min(value) < 0):
        refuse("trainer.devices", value, "a list of indices from 0")


def refuse(flag: str, value: Any, allowed: str, why: str = "") -> None:
    """Raise for one value.

    Raises:
        UserError: always.
    """
    raise UserError(f"--{flag} {value}: must be {allowed}{why}")
