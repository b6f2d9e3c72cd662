"""Interrupted equals uninterrupted, two processes find what one finds: bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
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


@pytest.fixture(scope="module")
def whole_runs() -> dict[tuple[str, str], Path]:
    """Folders of runs that nobody interrupts, by kind and preset."""
    return {}


@pytest.fixture
def whole_of(
    eventful: Path,
    kind: str,
    whole_runs: dict[tuple[str, str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """Gives the folder of an eventful run with a preset that nobody interrupts, run once for all tests here."""

    def find(preset: str) -> Path:
        if (kind, preset) not in whole_runs:
            folder = tmp_path_factory.mktemp("uncut") / "whole"
            run(eventful, folder, "--qat", preset)
            whole_runs[kind, preset] = folder
        return whole_runs[kind, preset]

    return find


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
    eventful: Path, tmp_path: Path, whole_of: Callable[[str], Path], preset: str, place: str
) -> None:
    assert_resumes_bit_for_bit(eventful, tmp_path, whole_of(preset), preset, place)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attention"])
def test_an_attention_model_resumes_inside_an_epoch_likewise(
    eventful: Path, tmp_path: Path, whole_of: Callable[[str], Path]
) -> None:
    assert_resumes_bit_for_bit(eventful, tmp_path, whole_of("stochastic"), "stochastic", "inside an epoch")


def assert_resumes_bit_for_bit(
    eventful: Path, tmp_path: Path, whole_run: Path, preset: str, place: str
) -> None:
    """Cut a run, resume it, and compare all of its state with that of one that was not cut."""
    whole = torch.load(whole_run / "last.ckpt", weights_only=True)
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
    assert (folder / "metrics.csv").read_text() == (whole_run / "metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crdnn", "attention"])
def test_two_processes_calibrate_as_one_and_report_once(
    tiny: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Lightning starts the second process. What one process reports, the tests of `qat.cli` hold."""
    has_twin = kind == "crdnn"  # an attention model's would be three more graphs
    flags = ["--config", str(tiny), "--qat", "stochastic", "--wandb.enabled", "false"]
    train([*flags, "--run", str(tmp_path / "on1"), "--evaluation.enabled", "false"])
    assert capfd.readouterr().out.count("run folder:") == 1
    flags += ["--run", str(tmp_path / "on2"), "--evaluation.repeats", "1", "--evaluation.variants", "false"]
    flags += ["--evaluation.twin", str(has_twin).lower()]
    flags += ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    done = subprocess.run(
        [sys.executable, "train.py", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("run folder:") == 2
    methods = ["float", "ptq", "stochastic"] if has_twin else ["float", "stochastic"]
    assert [row.method for row in load_report(tmp_path / "on2" / "report.json")] == methods * 2
    one, two = (torch.load(tmp_path / f"on{n}" / "ptq.ckpt", weights_only=True) for n in (1, 2))
    assert_equal(one["state_dict"], two["state_dict"])
