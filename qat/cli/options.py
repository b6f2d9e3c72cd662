"""What train.py takes besides model, data and trainer: one declaration for its quick check and its whole parser."""

from __future__ import annotations

from dataclasses import dataclass

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from qat.cli.messages import OneLineErrors
from qat.decoding.options import DecodingOptions
from qat.evaluation.options import EvaluationOptions
from qat.recipe import Recipe
from qat.runtime.formats import ExportOptions
from qat.tracking.wandb_names import PROJECT

OWN = ("run", "ckpt_path", "save_every_steps", "qat", "export", "evaluation", "decoding", "wandb")
TOP_LEVEL = ("config", "seed_everything", "trainer", "model", "data", *OWN)
WITHOUT_VALUE = ("help", "help_all", "print_config")


@dataclass(frozen=True)
class WandbOptions:
    """Weights & Biases logging.

    Args:
        enabled: log there at all (offline when no key is set; CSV is always written).
        project: project name.
        group: group of comparable runs; None takes the configuration's name.
        offline: True never uses the network, False always, None decides by the key.
    """

    enabled: bool = True
    project: str = PROJECT
    group: str | None = None
    offline: bool | None = None


class OwnParser(OneLineErrors, ArgumentParser):
    """Knows the options of `OWN` alone, and needs no torch."""


def add_own_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `OWN`."""
    parser.add_argument("--run", type=str | None, default=None, help="name of the run folder")
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="last, best or a checkpoint")
    parser.add_argument(
        "--save_every_steps",
        type=PositiveInt | None,
        default=None,
        help="optimiser steps between two checkpoints inside an epoch; null: at the ends of epochs only",
    )
    parser.add_class_arguments(Recipe, "qat")
    parser.add_class_arguments(ExportOptions, "export")
    parser.add_class_arguments(EvaluationOptions, "evaluation")
    parser.add_class_arguments(DecodingOptions, "decoding")
    parser.add_class_arguments(WandbOptions, "wandb")
