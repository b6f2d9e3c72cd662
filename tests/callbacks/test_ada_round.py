"""AdaRound and bias correction in a fit: they act, they are kept, and a run killed half-way ends the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qat.callbacks.ada_round import AdaRound
from qat.cli.train import build_cli
from qat.evaluation.candidates import candidates_of
from qat.layers.swap import quant_layers
from qat.models.checkpoint import read_checkpoint
from qat.models.loading import load_module, save_module
from qat.runs import read_config

SMALL = ["--qat.ada_round_steps", "120", "--qat.reconstruction_utterances", "3"]


def adaround(tiny: Path, folder: Path, *flags: str) -> Any:
    arguments = ["--config", str(tiny), "--qat", "adaround", "--run", str(folder), *SMALL, *flags]
    return build_cli([*arguments, "--wandb.enabled", "false", "--evaluation.enabled", "false"])


def fit(run: Any) -> Any:
    run.save_config()
    run.trainer.fit(run.model, datamodule=run.datamodule, ckpt_path=run.checkpoint)
    return run.model


@pytest.fixture(scope="module")
def rounded_runs() -> dict[tuple[str, ...], tuple[Any, Path]]:
    """Models and folders of runs that nobody interrupts, by their kind and flags."""
    return {}


@pytest.fixture
def rounded_once(
    kind: str,
    tiny: Path,
    rounded_runs: dict[tuple[str, ...], tuple[Any, Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[Any, Path]]:
    """Gives model and folder of a run that nobody interrupts, run once for all tests of this file: for reading."""

    def run(*more: str) -> tuple[Any, Path]:
        known = (kind, *more)
        if known not in rounded_runs:
            folder = tmp_path_factory.mktemp("rounded") / "run"
            rounded_runs[known] = fit(adaround(tiny, folder, *more)), folder
        return rounded_runs[known]

    return run


def test_every_layer_is_reconstructed_and_its_error_falls(
    rounded_once: Callable[..., tuple[Any, Path]],
) -> None:
    model, folder = rounded_once("--qat.weight_bits", "3")
    layers = [name for name, _ in quant_layers(model)]
    treated = {item["layer"].removesuffix(".l0").removesuffix(".l1") for item in model.reconstruction}
    assert treated == set(layers)
    assert all(item["after"] < item["before"] for item in model.reconstruction)
    assert all(
        bool(q.ada_round.chosen) and q.ada_rounded
        for _, layer in quant_layers(model)
        for _, _, q in layer.weights()
    )
    twin = load_module(folder / "ptq.ckpt")
    assert not any(q.ada_rounded for _, layer in quant_layers(twin) for _, _, q in layer.weights())
    for (_, one), (_, two) in zip(quant_layers(model), quant_layers(twin), strict=True):
        for (_, ours, rounded), (_, theirs, nearest) in zip(one.weights(), two.weights(), strict=True):
            assert torch.equal(ours, theirs)  # the float weights stay
            assert not torch.equal(rounded(ours), nearest(theirs))
            assert bool(((rounded(ours) - ours).abs() / rounded.scale.max() < 2.5).all())


class Killed(Exception):
    pass


@pytest.mark.parametrize("saves", [1, 4])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    saves: int,
    tiny: Path,
    tmp_path: Path,
    rounded_once: Callable[..., tuple[Any, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed between layers and inside one; the resumed run ends as one that was never interrupted."""
    expected = rounded_once()[0].state_dict()
    save, count = AdaRound.save, 0

    def kill(self: AdaRound, trainer: Any) -> None:
        nonlocal count
        save(self, trainer)
        count += 1
        if count == saves:
            raise Killed

    monkeypatch.setattr(AdaRound, "save", kill)
    run = adaround(tiny, tmp_path / "killed")
    for callback in run.trainer.callbacks:
        if isinstance(callback, AdaRound):
            callback.save_every_s = 0.0  # at every look: also inside a layer
    with pytest.raises(Killed):
        fit(run)
    monkeypatch.setattr(AdaRound, "save", save)
    inside = read_checkpoint(tmp_path / "killed" / "last.ckpt")["callbacks"]["AdaRound"]["inside"]
    resumed = fit(adaround(tiny, tmp_path / "killed", "--ckpt_path", "last")).state_dict()
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[key], expected[key]) for key in expected)
    assert saves != 1 or inside  # the first kill hits the inside of the first layer


def test_the_checkpoint_rebuilds_the_rounding(
    rounded_once: Callable[..., tuple[Any, Path]], tmp_path: Path
) -> None:
    rounded, run = rounded_once("--qat.weight_bits", "3")
    model = rounded.eval()
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    kept = folder / "model.ckpt"
    save_module(model, kept)
    again = load_module(kept)
    signal, lengths = 0.1 * torch.randn(1, 16_000), torch.tensor([16_000])
    with torch.no_grad():
        assert torch.equal(model(signal, lengths)[0], again(signal, lengths)[0])
    assert again.reconstruction == model.reconstruction
    config = read_config(folder / "config.yaml")
    names = {twin: [item.name for item in candidates_of(kept, config, twin)] for twin in (True, False)}
    assert names == {True: ["float", "ptq", "model"], False: ["float", "model"]}


def test_training_after_adaround_starts_from_its_rounding(
    tiny: Path, tmp_path: Path, rounded_once: Callable[..., tuple[Any, Path]]
) -> None:
    """`fine_tune` after AdaRound: nearest now gives its values, and few weights had to move for that."""
    plain, _ = rounded_once("--qat.weight_bits", "3")
    run = adaround(
        tiny, tmp_path / "tuned", "--qat.weight_bits", "3", "--qat.fine_tune", "true", "--trainer.max_steps", "1",
        "--model.learning_rate", "0.0", "--model.weight_decay", "0.0",
    )  # fmt: skip
    tuned = fit(run)
    for (_, one), (_, two) in zip(quant_layers(plain), quant_layers(tuned), strict=True):
        for (_, ours, rounded), (_, theirs, nearest) in zip(one.weights(), two.weights(), strict=True):
            assert not nearest.ada_rounded
            moved = (ours != theirs).float().mean()
            assert 0 < float(moved) < 0.8
            assert bool(((ours - theirs).abs() <= 1.01 * nearest.scale.max()).all())
            torch.testing.assert_close(nearest.eval()(theirs), rounded(ours))


def test_a_run_killed_between_adaround_and_training_trains_its_weights(
    kind: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint of AdaRound holds variables; training that starts from it needs weights."""
    flags = ["--qat.fine_tune", "true", "--trainer.max_steps", "2", "--trainer.num_sanity_val_steps", "0"]
    whole = fit(adaround(tiny, tmp_path / "whole", *flags)).state_dict()
    monkeypatch.setattr(
        "qat.callbacks.ada_round.move_weights_to_levels_", lambda model: (_ for _ in ()).throw(Killed())
    )
    with pytest.raises(Killed):
        fit(adaround(tiny, tmp_path / "killed", *flags))
    monkeypatch.undo()
    resumed = fit(adaround(tiny, tmp_path / "killed", *flags, "--ckpt_path", "last")).state_dict()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
