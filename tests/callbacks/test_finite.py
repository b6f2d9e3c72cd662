"""A diverged run stops at its first broken step, and leaves the checkpoints of before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from datamodules.base import SpeechDataModule
from qat.callbacks.finite import StaysFinite
from qat.models.checkpoint import SafeCheckpointIO, read_checkpoint
from qat.system.errors import UserError
from tests.conftest import build


class SaveEachStep(Callback):
    """Writes `last.ckpt` after every step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def fit(data: SpeechDataModule, folder: Path, broken: Callback | None = None, **arguments: Any) -> None:
    model = build("crdnn", learning_rate=arguments.pop("learning_rate", 1e-3))
    L.Trainer(
        **{
            "max_steps": 4,
            "accelerator": "cpu",
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            **arguments,
        },
        callbacks=[*([broken] if broken else []), SaveEachStep(folder / "last.ckpt"), StaysFinite(folder)],
        plugins=[SafeCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(model, datamodule=data)


def test_a_run_whose_weights_explode_stops_and_keeps_its_last_good_checkpoint(
    tiny_data: SpeechDataModule, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"step \d: the .* is NaN or infinite, and must be finite; start again"
    ) as caught:
        fit(tiny_data, tmp_path, learning_rate=1e30)
    kept = read_checkpoint(tmp_path / "last.ckpt")
    assert all(value.isfinite().all() for key, value in kept["state_dict"].items() if key.startswith("head."))
    assert f"step {kept['global_step'] + 1}:" in str(caught.value) and "last.ckpt" in str(caught.value)
    assert "\n" not in str(caught.value)


class Break(Callback):
    """Makes one gradient of the second step infinite, or one weight after it."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_step == 1 and self.what == "gradient":
            pl_module.head.bias.grad[0] = float("inf")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 2 and self.what == "weight head.bias":
            pl_module.head.bias.data[0] = float("nan")


@pytest.mark.parametrize("what", ["gradient", "weight head.bias"])
def test_the_broken_thing_and_its_step_are_named(
    what: str, tiny_data: SpeechDataModule, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"step 2: the {what} is NaN or infinite"):
        fit(tiny_data, tmp_path, Break(what), gradient_clip_val=1.0)
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 1


def test_a_dev_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    metrics = {"val/loss": torch.tensor(float("nan"))}
    trainer: Any = SimpleNamespace(callback_metrics=metrics, sanity_checking=False, global_step=7)
    with pytest.raises(UserError, match="step 7: the dev loss"):
        StaysFinite(tmp_path).on_validation_end(trainer, torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_the_first_broken_step_is_remembered_until_it_is_read() -> None:
    watch = StaysFinite(Path("nowhere"))
    for step, value in enumerate([1.0, float("nan"), 2.0, float("inf")], start=1):
        watch.on_before_backward(SimpleNamespace(global_step=step - 1), None, torch.tensor(value))  # type: ignore[arg-type]
    assert watch.first is not None and watch.first[0] == 2


def test_scaled_gradients_are_left_to_their_scaler() -> None:
    watch, model = StaysFinite(Path("nowhere")), torch.nn.Linear(1, 1)
    model.weight.grad = torch.full((1, 1), float("inf"))
    scaled: Any = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()), global_step=0)
    watch.on_before_optimizer_step(scaled, model, None)  # type: ignore[arg-type]
    assert watch.first is None
