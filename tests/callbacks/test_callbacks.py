"""Fold, calibrate, fine-tune: what the callbacks do to a model in a fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch
from datamodules.manifest import ManifestDataModule
from qat.callbacks.calibrate import Calibrate
from qat.callbacks.final_evaluation import FinalEvaluation
from qat.callbacks.fold import FoldBatchNorm
from qat.evaluation.options import EvaluationOptions
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_, state_hash
from qat.layers.swap import quantizers
from qat.methods.calibrate import calibrate_, is_quantized
from qat.methods.re_estimate import BATCH_NORM, frames_of, re_estimate_batch_norm_
from qat.models.ctc import CTCModule
from qat.models.loading import load_module, save_module
from qat.recipe import Recipe
from tests.conftest import build, noise


@pytest.fixture
def data(tiny_manifests: dict[str, Path]) -> SpeechDataModule:
    paths = {key: str(tiny_manifests[key]) for key in ("train", "dev")}
    return ManifestDataModule(**paths, test=str(tiny_manifests["test_a"]), max_batch_s=6.0)


def fit(model: CTCModule, data: SpeechDataModule, folder: Path | None = None, **arguments: Any) -> L.Trainer:
    trainer = L.Trainer(
        **{"max_steps": 3, "accelerator": "cpu", **arguments},
        callbacks=[FoldBatchNorm(), Calibrate(folder)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(model, datamodule=data)
    return trainer


def test_off_trains_exactly_as_the_plain_model(kind: str, data: SpeechDataModule) -> None:
    """The first invariant: a recipe that is off changes nothing, step after step."""
    states = []
    for recipe in (None, Recipe(preset="off", weight_bits=4, rounding="stochastic")):
        L.seed_everything(3)
        model = build(kind, recipe)
        fit(model, data)
        states.append(model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_fit_folds_calibrates_keeps_the_twin_and_trains_quantized(
    kind: str, data: SpeechDataModule, tmp_path: Path
) -> None:
    model = build(
        kind,
        Recipe(preset="stochastic", rounding="stochastic", weight_observer="max", calibration_utterances=4),
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fit(model, data, tmp_path)
    assert is_quantized(model) and all(quantizer.is_enabled for _, quantizer in quantizers(model))
    assert len(model.folded) == (2 if kind == "crdnn" else 0)
    twin = load_module(tmp_path / "ptq.ckpt")
    assert is_quantized(twin) and state_hash(twin) != state_hash(model)
    moved = [
        key
        for key, value in model.state_dict().items()
        if key in before and not torch.equal(before[key], value)
    ]
    assert any(key.endswith("weight") for key in moved)


def test_post_training_quantization_does_not_touch_the_weights(kind: str, data: SpeechDataModule) -> None:
    model = build(kind, Recipe(preset="ptq_max", calibration_utterances=4, fold_batch_norm=False))
    weights = {name: value.clone() for name, value in model.named_parameters()}
    fit(model, data, max_steps=-1, max_epochs=0)
    assert is_quantized(model)
    assert all(torch.equal(weights[name], value) for name, value in model.named_parameters())


def test_calibration_is_repeatable_and_sees_training_speech_only(
    kind: str, data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = SpeechDataModule.loader

    def spy(self: SpeechDataModule, utterances: Any, **arguments: Any) -> Any:
        seen.extend(item.id for item in utterances)
        return original(self, utterances, **arguments)

    monkeypatch.setattr(SpeechDataModule, "loader", spy)
    hashes = []
    for _ in range(2):
        model = build(
            kind, Recipe(preset="ptq_entropy", activation_observer="entropy", calibration_utterances=5)
        )
        calibrate_(model, data)
        hashes.append(state_hash(model))
    assert hashes[0] == hashes[1]
    assert len(set(seen)) == 5 and all(name.startswith("train-") for name in seen)


@pytest.mark.parametrize("observer", ["max", "mse", "percentile", "entropy"])
def test_observers_choose_different_ranges(observer: str, data: SpeechDataModule) -> None:
    model = build("crdnn", Recipe(preset="x", activation_observer=observer, calibration_utterances=6))  # type: ignore[arg-type]
    calibrate_(model, data)
    reference = build("crdnn", Recipe(preset="x", activation_observer="max", calibration_utterances=6))
    calibrate_(reference, data)
    assert (state_hash(model) == state_hash(reference)) == (observer == "max")


def test_folding_after_calibration_keeps_the_ranges_of_the_unfolded_weights(
    data: SpeechDataModule, tmp_path: Path
) -> None:
    """The wrong order, for the record: scales are those of unfolded calibration, weights those of folding."""
    states = {}
    for order in (True, False, "after_calibration"):
        model = build("crdnn", Recipe(preset="x", calibration_utterances=4, fold_batch_norm=order))  # type: ignore[arg-type]
        for _, _, norm in model.batch_norm_pairs():
            norm.running_var.fill_(0.25)  # type: ignore[operator, union-attr]
        fit(model, data, max_steps=-1, max_epochs=0)
        states[order] = model.state_dict()
        assert len(model.folded) == (0 if order is False else 2)
        save_module(model, tmp_path / "model.ckpt")
        signal, lengths = 0.1 * torch.randn(1, 16_000), torch.tensor([16_000])
        with torch.no_grad():
            assert torch.equal(
                load_module(tmp_path / "model.ckpt")(signal, lengths)[0], model.eval()(signal, lengths)[0]
            )
    name = "crdnn.DNN.block_0.linear.w"
    late, before, never = states["after_calibration"], states[True], states[False]
    assert torch.equal(late[f"{name}.weight"], before[f"{name}.weight"])
    assert torch.equal(late[f"{name}.weight_quantizer.scale"], never[f"{name}.weight_quantizer.scale"])
    assert not torch.equal(late[f"{name}.weight_quantizer.scale"], before[f"{name}.weight_quantizer.scale"])


def test_re_estimated_statistics_are_those_of_the_frames_behind_each_norm(data: SpeechDataModule) -> None:
    model = build("crdnn", Recipe(preset="x", calibration_utterances=5, fold_batch_norm=False))
    calibrate_(model, data)
    norms = {name: norm for name, module in model.named_modules() if isinstance(norm := module, BATCH_NORM)}
    for norm in norms.values():
        norm.running_mean.fill_(7.0), norm.running_var.fill_(9.0)
    assert re_estimate_batch_norm_(model, data) == "re-estimated 2 BatchNorm on 5 training utterances"
    model.eval()
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in norms}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(
            lambda layer, inputs, name=name: seen[name].append(frames_of(inputs[0]))
        )
    with torch.no_grad():
        for batch in data.loader(data.calibration_utterances(5, 0)):
            model(batch.signal, batch.lengths)
    for name, norm in norms.items():
        frames = torch.cat(seen[name])
        torch.testing.assert_close(norm.running_mean, frames.mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(norm.running_var, frames.var(0), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("asked", [False, True])
def test_the_kept_model_has_re_estimated_statistics_where_the_recipe_asks(
    asked: bool, data: SpeechDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qat.callbacks.final_evaluation.report_checkpoint", lambda *arguments: [])
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")
    recipe = Recipe(preset="x", calibration_utterances=3, fold_batch_norm=False, re_estimate_batch_norm=asked)
    model = build("crdnn", recipe)
    calibrate_(model, data)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    strategy = SimpleNamespace(barrier=lambda: None)
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=data, loggers=[], strategy=strategy)
    FinalEvaluation(tmp_path, EvaluationOptions()).on_fit_end(trainer, model)
    kept = load_module(tmp_path / "model.ckpt").state_dict()
    assert before and all(torch.equal(kept[key], before[key]) != asked for key in before)


def test_accumulated_gradients_are_those_of_the_larger_batch(kind: str) -> None:
    """Two batches of two utterances, one step: the weights of one batch of four."""
    texts = ["turn on", "light", "call home", "one two"]
    signal = noise(4, 1.0)
    lengths = torch.tensor([16_000, 15_000, 16_000, 14_000])

    def batch(rows: slice) -> Batch:
        return Batch(signal[rows], lengths[rows], texts[rows], [str(row) for row in range(4)][rows])

    start, ends = {}, []
    for batches, accumulate in (([batch(slice(0, 4))], 1), ([batch(slice(0, 2)), batch(slice(2, 4))], 2)):
        model = build(kind, Recipe(preset="deterministic", learn_scale=True), learning_rate=1e-3)
        model.fold_batch_norm()
        model.eval()
        set_observing_(model, True)
        with torch.no_grad():
            model(signal, lengths)
        set_observing_(model, False)
        calibrate_weights_(model)
        finish_calibration_(model)
        model.quantize()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        start = {key: value.clone() for key, value in model.state_dict().items()}
        trainer = L.Trainer(
            max_steps=1, accumulate_grad_batches=accumulate, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        ends.append(model.state_dict())
    moved = [key for key in start if not torch.equal(start[key], ends[0][key])]
    assert len(moved) > 10
    for key in moved:
        one, two = (end[key] - start[key] for end in ends)
        close = (
            one - two
        ).abs() <= 1e-3 * 1e-3 + 0.02 * one.abs()  # Adam's first step is the sign of a gradient
        assert float(close.float().mean()) > 0.97, key
