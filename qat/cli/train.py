"""Command line of train.py: model, data and trainer from configuration files and flags."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.base import SpeechDataModule
from datamodules.leaks import check_leaks
from qat.cli.check import recipe_builtins
from qat.cli.ending import library_error
from qat.cli.flags import expand_presets
from qat.cli.four_bit import four_bit_linear
from qat.cli.limits import check_sections, check_trainer
from qat.cli.messages import OneLineErrors
from qat.cli.options import add_own_arguments
from qat.cli.resume import resume_from
from qat.cli.trainer import loggers, own_callbacks, plugins, read_whole_numbers, refuse_sharding
from qat.evaluation.module_side import check_export, check_search
from qat.models.check_texts import check_texts
from qat.models.ctc import CTCModule
from qat.models.float_start import keep_start
from qat.models.loading import load_teacher_
from qat.recipe import Recipe
from qat.runs import CONFIG_FILE, choose_run_folder, make_run_folder
from qat.runtime.formats import ExportOptions
from qat.system.errors import UserError
from qat.system.files import write_text
from qat.system.ranks import launched_rank

PUBLIC_CLASSES = ("qat.models", "datamodules")  # packages that import each class when it is first named


class OneLineParser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser with errors in one line."""


class SpeechCLI(LightningCLI):
    """Builds model, data and trainer from configuration files and flags."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our own arguments beside Lightning's."""
        add_own_arguments(parser)
        read_whole_numbers(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, check the recipe, and hand it to the model."""
        super().parse_arguments(parser, args)
        check_sections(self.config)
        check_trainer(self.config["trainer"], self.config["seed_everything"])
        recipe = Recipe.from_dict(recipe_builtins(self.config["qat"]))
        portable = self.config["export"]["format"] != "onnxruntime"
        kernel = four_bit_linear(recipe, self.config["run"], self.config["ckpt_path"], portable)
        self.config["qat"]["four_bit_linear"] = kernel
        self.config["model"]["init_args"]["recipe"] = replace(recipe, four_bit_linear=kernel).to_dict()

    def before_instantiate_classes(self) -> None:
        """Choose the run folder before anything expensive is built."""
        if self.config["qat"]["preset"] != "off" and not self.config["qat"]["fine_tune"]:
            self.config["trainer"]["max_epochs"] = 0  # calibration only
        self.run_folder: Path = choose_run_folder(self.config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Trainer with our loggers and callbacks in front of the configured ones.

        Everything that a user may have got wrong is checked before the run folder is made.
        """
        refuse_sharding(self.config["trainer"]["strategy"])
        resumes = bool(self.config["run"] and self.config["ckpt_path"]) and self.run_folder.is_dir()
        if resumes:  # from here on nobody else may write into it
            make_run_folder(self.run_folder, resumes=True)
        self.checkpoint, logged = resume_from(
            self.config["ckpt_path"], self.run_folder, self.model, self.batch_conditions()
        )
        self.datamodule.check()
        check_texts(self.model, self.datamodule)
        for line in check_leaks(self.datamodule):
            rank_zero_info(line)
        load_teacher_(self.model)
        check_search(self.model, self.config_init["decoding"])
        check_export(self.model, self.config_init["export"], self.config_init["evaluation"].runner)
        if not resumes:
            self.run_folder = make_run_folder(self.run_folder, named=bool(self.config["run"]))
        options = self.config_init["trainer"]
        bar = sys.stderr.isatty() and options.get("enable_progress_bar") is not False
        ours = own_callbacks(self.run_folder, self.config, self.config_init["evaluation"], bar)
        return super().instantiate_trainer(
            logger=loggers(self.run_folder, self.config_init["wandb"], self.plain_config(), logged),
            callbacks=ours + as_list(options.get("callbacks")),
            plugins=plugins(as_list(options.get("plugins"))),
            enable_progress_bar=bar,
            enable_model_summary=False,
            default_root_dir=str(self.run_folder),
            use_distributed_sampler=False,
            **kwargs,
        )

    def plain_config(self) -> dict[str, Any]:
        """The whole configuration as nested builtins."""
        text = self.parser.dump(self.config, skip_link_targets=True, skip_none=False, format="yaml")
        config = yaml.safe_load(text)
        config.pop("config", None)
        config["model"]["init_args"].pop("recipe", None)  # `qat` says it
        config["decoding"] = {key: value for key, value in config["decoding"].items() if value is not None}
        if not config["decoding"]:  # the model's own search
            del config["decoding"]
        if config["export"] == vars(ExportOptions()):
            del config["export"]
        return config

    def save_config(self) -> None:
        """Write `config.yaml` and `start.json` into the run folder (rank zero, atomically)."""
        if launched_rank() != 0:
            return
        config = self.plain_config()
        write_text(self.run_folder / CONFIG_FILE, yaml.safe_dump(config, sort_keys=False))
        keep_start(config, self.run_folder, self.checkpoint)

    def batch_conditions(self) -> dict[str, Any]:
        """What decides the batches of training, as `Resumable` keeps it in checkpoints."""
        trainer = self.config_init["trainer"]
        seeded = self.config["seed_everything"] is not False
        return {
            **self.datamodule.training_facts(),
            "accumulate_grad_batches": trainer.accumulate_grad_batches or 1,
            **({"seed": torch.initial_seed()} if seeded else {}),
        }


def build_cli(args: Sequence[str]) -> SpeechCLI:
    """Parse `args` (never changing `sys.argv`, which Lightning runs again for every DDP process) and build."""
    quieten()
    try:
        expanded = expand_presets(args)
        import_named_classes(expanded)
        return build(expanded)
    except Exception as error:  # the parser buries what a model or data module said about its arguments
        raise buried_user_error(error) or library_error(error) or error from None


def buried_user_error(error: BaseException | None) -> UserError | None:
    """The first `UserError` in a chain of causes."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def build(args: list[str]) -> SpeechCLI:
    """The parsed command line with model, data and trainer."""
    return SpeechCLI(
        CTCModule,
        SpeechDataModule,
        save_config_callback=None,
        seed_everything_default=1,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_class=OneLineParser,
        args=args,
        run=False,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
    )


def import_named_classes(args: Sequence[str]) -> None:
    """Import the models and data modules that flags or configuration files name; for help, all of them.

    The parser finds a class by its bare name, and lists it in its help, only when the class is imported.
    """
    everything = "--help" in args
    values = [item.partition("=")[2] if item.startswith("--") else item for item in args]
    files = [
        file for value in values if value.endswith((".yaml", ".yml")) and (file := Path(value)).is_file()
    ]
    text = "\n".join([*values, *(file.read_text(errors="replace") for file in files)])
    for package in map(import_module, PUBLIC_CLASSES):
        for name in package.__all__:
            if everything or name in text:
                getattr(package, name)


def as_list(value: Any) -> list[Any]:
    """One thing, several or none, as a list."""
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def quieten() -> None:
    """Hide library chatter that tells a user nothing about the run."""
    for message in (
        "LightningCLI's args parameter",
        ".*exists and is not empty",
        ".*smaller than the logging interval",
        ".*does not have many workers",
        ".*could not find the monitored key",
        ".*is deprecated, use `isinstance",
        ".*dropout option adds dropout after all but last",
        "RNN module weights are not part of single contiguous chunk",  # quantized at each step
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: (
            not any(word in record.getMessage() for word in ("litlogger", "TPU", "Loading `train_data"))
        )
    )
