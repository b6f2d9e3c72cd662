"""Interrupted equals uninterrupted, two processes find what one finds: bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from qat.report.row import load_report
from tests.conftest import ROOT
from train import train

MASKED: dict[str, dict[str, Any]] = {
    "attention": {"dropout": 0.3, "lm_dropout": 0.3, "time_masks": 2, "label_smoothing": 0.2},
    "crdnn": {"dropout": 0.3, "time_masks": 2, "frequency_masks": 1, "frequency_mask_channels": 3},
    "wav2vec2": {
        "config": {
            "hidden_dropout": 0.2,
            "attention_dropout": 0.2,
            "layerdrop": 0.3,
            "apply_spec_augment": True,
            "mask_time_prob": 0.3,
            "mask_time_length": 4,
        }
    },
}


class PowerCutError(Exception):
    """The machine goes away."""


class Cut(Callback):
    """Cuts the power at the start of an optimiser step.

    Args:
        step: steps made before.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise PowerCutError


@pytest.fixture
def eventful(tiny: Path, kind: str) -> Path:
    """A tiny run in which everything random is at work, with a checkpoint after every second step."""
    config = yaml.safe_load(tiny.read_text())
    arguments = config["model"]["init_args"]
    for key, value in MASKED[kind].items():
        arguments[key] = {**arguments[key], **value} if isinstance(value, dict) else value
    arguments["learning_rate"] = 0.01
    config["data"]["init_args"].update(max_batch_s=4.0, augment=True)
    saver = {"dirpath": None, "filename": "{step}", "every_n_train_steps": 2, "save_top_k": -1}
    config["trainer"].update(
        max_epochs=2,
        num_sanity_val_steps=0,
        callbacks=[{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saver}],
    )
    config["evaluation"] = {"enabled": False}
    tiny.write_text(yaml.safe_dump(config))
    return tiny


def run(config: Path, folder: Path, *args: str) -> dict[str, Any]:
    """Train into `folder`; contents of its last checkpoint."""
    content = yaml.safe_load(config.read_text())
    content["trainer"]["callbacks"][0]["init_args"]["dirpath"] = str(folder / "steps")
    own = config.with_name(f"{folder.name}.yaml")
    own.write_text(yaml.safe_dump(content))
    train(["--config", str(own), "--run", str(folder), "--wandb.enabled", "false", *args])
    return torch.load(folder / "last.ckpt", weights_only=True)


def assert_equal(one: Any, two: Any, where: str = "") -> None:
    """Bit for bit, whatever is nested in what."""
    assert type(one) is type(two), where
    if isinstance(one, Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for index, (first, second) in enumerate(zip(one, two, strict=True)):
            assert_equal(first, second, f"{where}[{index}]")
    else:
        assert one == two, where


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["off", "stochastic", "quant_noise"])
@pytest.mark.parametrize("place", ["between epochs", "inside an epoch"])
def test_a_resumed_run_ends_as_one_that_was_never_interrupted(
    eventful: Path, tmp_path: Path, preset: str, place: str
) -> None:
    assert_resumes_bit_for_bit(eventful, tmp_path, preset, place)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attention"])
def test_an_attention_model_resumes_inside_an_epoch_likewise(eventful: Path, tmp_path: Path) -> None:
    assert_resumes_bit_for_bit(eventful, tmp_path, "stochastic", "inside an epoch")


def assert_resumes_bit_for_bit(eventful: Path, tmp_path: Path, preset: str, place: str) -> None:
    """Cut a run, resume it, and compare all of its state with that of one that was not cut."""
    whole = run(eventful, tmp_path / "whole", "--qat", preset)
    assert whole["epoch"] == 1  # the last one, though no epoch was better than the first
    steps = whole["global_step"] // 2
    assert steps >= 4 and steps % 2 == 0
    cut = steps + (1 if place == "between epochs" else 3)
    start = "last" if place == "between epochs" else f"steps/step={cut - 1}.ckpt"
    config = yaml.safe_load(eventful.read_text())
    saver = config["trainer"]["callbacks"]
    config["trainer"]["callbacks"] = [*saver, {"class_path": f"{__name__}.Cut", "init_args": {"step": cut}}]
    broken = eventful.with_name("broken.yaml")
    broken.write_text(yaml.safe_dump(config))
    folder = tmp_path / "cut"
    with pytest.raises(PowerCutError):
        run(broken, folder, "--qat", preset)
    start = start if start == "last" else str(folder / start)
    resumed = run(eventful, folder, "--qat", preset, "--ckpt_path", start)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_equal(resumed[key], whole[key], key)
    assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crdnn", "attention"])
def test_two_processes_calibrate_as_one_and_report_once(tiny: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        folder = tmp_path / f"on{processes}"
        command = [
            sys.executable,
            "train.py",
            "--config",
            str(tiny),
            "--qat",
            "stochastic",
            "--run",
            str(folder),
        ]
        command += ["--wandb.enabled", "false", "--evaluation.repeats", "1", "--evaluation.variants", "false"]
        command += [
            "--trainer.devices",
            str(processes),
            "--trainer.strategy",
            "ddp" if processes > 1 else "auto",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("run folder:") == processes
        rows = load_report(folder / "report.json")
        assert [row.method for row in rows] == ["float", "ptq", "stochastic"] * 2
    one, two = (torch.load(tmp_path / f"on{n}" / "ptq.ckpt", weights_only=True) for n in (1, 2))
    assert_equal(one["state_dict"], two["state_dict"])
