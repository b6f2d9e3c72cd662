"""Training, and what comes before and after it, on a GPU that is not there (`tests/pretend_gpu.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from datamodules.batch import Batch
from qat.cli.train import build_cli
from qat.layers.state import (
    calibrate_weights_,
    finish_calibration_,
    set_enabled_,
    set_observing_,
    state_hash,
)
from qat.models.checkpoint import read_checkpoint
from qat.models.ctc import CTCModule
from qat.models.distillation import Teacher
from qat.models.loading import load_module
from qat.recipe import Recipe
from qat.rule import Rule
from tests.conftest import TINY_WAV2VEC2, build, noise
from tests.pretend_gpu import GPU, PlacementError, PretendGPU, is_on_gpu

# ---------------------------------------------------------------- what the GPU pretends


def test_tensors_say_where_they_are_and_results_lie_beside_their_arguments() -> None:
    with PretendGPU() as gpu:
        x = torch.zeros(3, device="cuda", requires_grad=True)
        here = torch.ones(3)
        assert (x.device, here.device.type, here.to(x.device).device) == (GPU, "cpu", GPU)
        assert torch.zeros_like(x).is_cuda and x.new_ones(2).is_cuda and not here.is_cuda
        (2.0 * x[1:] + torch.tensor(1.0)).sum().backward()
        assert x.grad is not None and x.grad.tolist() == [0.0, 2.0, 2.0] and is_on_gpu(x.grad)
        moved = (x.cpu() + here).sum()
        assert not moved.is_cuda
        moved.backward()
        assert is_on_gpu(x.grad) and [read.partition("\n")[0] for read in gpu.reads] == [
            "tolist",
            "copy back",
        ]
    assert x.device.type == "cpu"  # the pretence has an end


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x + torch.ones(3),
        lambda x: x.masked_fill(torch.arange(3) < 2, 0.0),
        lambda x: torch.nn.functional.linear(x, torch.ones(2, 3)),
        lambda x: torch.cat([x, torch.ones(1)]),
        lambda x: x.index_select(0, torch.tensor([1])),
    ],
)
def test_tensors_of_two_devices_do_not_meet(mistake: Any) -> None:
    with PretendGPU(), pytest.raises(PlacementError, match="on cuda:0.*on cpu"):
        mistake(torch.zeros(3, device="cuda"))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x[0] > 1),
        lambda x: int(x[0]),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.zeros(3).copy_(x),
        lambda x: torch.equal(x, x),
    ],
)
def test_what_waits_for_the_gpu_is_counted(read: Any) -> None:
    with PretendGPU() as gpu:
        x = torch.zeros(3, device="cuda")
        _ = x.sum() + x.to("cuda") + x.clone()
        assert not gpu.reads
        read(x)
    assert len(gpu.reads) == 1 and "test_pretend_gpu.py" in gpu.reads[0]


# ---------------------------------------------------------------- a step of training

MASKED: dict[str, dict[str, Any]] = {
    "crdnn": {"dropout": 0.2, "time_masks": 2, "frequency_masks": 1, "frequency_mask_channels": 3},
    "wav2vec2": {
        "config": {
            **TINY_WAV2VEC2["config"],
            **{"hidden_dropout": 0.2, "layerdrop": 0.2, "apply_spec_augment": True},
            **{
                "mask_time_prob": 0.3,
                "mask_time_length": 4,
                "mask_feature_prob": 0.2,
                "mask_feature_length": 2,
            },
            "feat_extract_norm": "group",
        }
    },
}
RECIPES: dict[str, dict[str, Any]] = {
    "float": {},
    "stochastic": {"rounding": "stochastic", "quant_noise": 0.5, "weight_observer": "max"},
    "low_bit": {"weight_bits": 4, "activation_bits": 4, "learn_scale": True, "ada_round": True},
    "frames": {},
}
FRAMES = {"crdnn": "*linear*", "wav2vec2": "*dense*"}  # layers whose frames have ranges of their own
TAUGHT = ("float", "stochastic")


def batch() -> Batch:
    lengths = torch.tensor([6_400, 4_000, 5_000])
    return Batch(noise(3, 0.4), lengths, ["home", "a", "b"], ["a", "b", "c"])


def calibrate(model: CTCModule) -> None:
    model.eval()
    set_observing_(model, True)
    with torch.no_grad():
        model(batch().signal[:1], batch().lengths[:1])
    set_observing_(model, False)
    calibrate_weights_(model)
    finish_calibration_(model)
    set_enabled_(model, True)


def model_of(kind: str, name: str, **options: Any) -> CTCModule:
    """A model in training, calibrated where it is quantized."""
    rules = [Rule(FRAMES[kind], activation_granularity="frame")] if name == "frames" else []
    recipe = None if name == "float" else Recipe(preset=name, rules=rules, **RECIPES[name])
    model = build(kind, recipe, **options)
    model.log = lambda *_, **__: None  # type: ignore[method-assign] # no trainer
    if recipe:
        calibrate(model)
    return model.train()


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_training_reads_nothing_back_and_is_that_of_a_cpu(kind: str, name: str) -> None:
    """All arithmetic of a GPU and its gradients lie there; lengths, labels and draws lie on the CPU."""
    options = {"teacher": "teacher", "splice_share": 0.5} if name in TAUGHT else {}
    losses = []
    for device in ("cpu", "cuda:0"):
        model, on_gpu = model_of(kind, name, **MASKED[kind], **options), device != "cpu"
        if options:
            model.teacher = Teacher(build(kind).eval(), "teacher", model.vocabulary, model.vocabulary)
        torch.manual_seed(1)
        np.random.seed(1)
        with PretendGPU() as gpu:
            loss = model.to(device).training_step(batch().to(device), 0)
            loss.backward()
            assert gpu.reads == [] and is_on_gpu(loss) == on_gpu
            assert all(is_on_gpu(p.grad) == on_gpu for p in model.parameters() if p.grad is not None)
        losses.append(float(loss.detach()))
    # the LSTM of a CPU in training takes another kernel
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if kind == "crdnn" else 0)


@pytest.mark.parametrize("name", RECIPES)
def test_every_trained_parameter_has_a_gradient(kind: str, name: str) -> None:
    """Otherwise several processes would need `ddp_find_unused_parameters_true`."""
    model = model_of(kind, name)
    model.training_step(batch(), 0).backward()
    assert not [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]


# ---------------------------------------------------------------- a run


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendGPU]:
    """Lightning's trainer finds a GPU."""
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", GPU)
    monkeypatch.setattr(CPUAccelerator, "setup_device", lambda *_: None)
    monkeypatch.setattr("qat.callbacks.final_evaluation.report_checkpoint", lambda *_: [])
    monkeypatch.setattr("qat.numerics.ada_round.CANDIDATES", (1.0,))  # each operation takes long here
    with PretendGPU() as gpu:
        yield gpu


FLAGS = """
    --wandb.enabled false --data.max_train_utterances 2 --data.max_test_utterances 2 --trainer.num_sanity_val_steps 0
    --qat.calibration_utterances 1 --qat.reconstruction_utterances 1 --qat.ada_round_steps 2
    --qat.bias_correction true --qat.re_estimate_batch_norm true
"""


def run(tiny: Path, folder: Path, preset: str, *flags: str) -> Any:
    """A run of the command line, up to its report."""
    arguments = ["--config", str(tiny), "--run", str(folder), "--qat", preset, *FLAGS.split(), *flags]
    cli = build_cli(arguments)
    cli.save_config()
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.checkpoint)
    return cli.model


def test_a_run_folds_calibrates_rounds_trains_validates_saves_and_is_resumed(
    kind: str, tiny: Path, tmp_path: Path, on_a_gpu: PretendGPU
) -> None:
    folder = tmp_path / "run"
    model = run(tiny, folder, "low_bit", "--qat.weight_bits", "4")
    assert model.validated_on == "cuda" and len(model.reconstruction) > 3
    assert len(model.folded) == (2 if kind == "crdnn" else 0)
    saved = load_module(folder / "model.ckpt")
    assert saved.validated_on == "cuda" and not any(map(is_on_gpu, saved.state_dict().values()))
    assert state_hash(saved) == state_hash(model)  # which Lightning has handed back on the CPU
    steps = read_checkpoint(folder / "last.ckpt")["global_step"]
    flags = ("--ckpt_path", "last", "--trainer.max_epochs", "2")
    run(tiny, folder, "low_bit", "--qat.weight_bits", "4", *flags)
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 2 * steps > 0


@pytest.mark.parametrize("kind", ["crdnn"])
def test_planted_fault_a_probe_where_the_trainer_will_move_the_model_is_caught(
    tiny: Path, tmp_path: Path, on_a_gpu: PretendGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As folding had it: before the model is moved, `module.device` is the trainer's already."""
    monkeypatch.setattr("qat.methods.fold_batch_norm.device_of", lambda module: module.device)
    with pytest.raises(PlacementError):
        run(tiny, tmp_path / "run", "ptq_max")


def test_ranges_of_a_gpu_are_those_of_a_cpu(
    kind: str, tiny: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    flags = ("--qat.bias_correction", "false", "--evaluation.enabled", "false")
    here = run(tiny, tmp_path / "here", "ptq_percentile", *flags)
    request.getfixturevalue("on_a_gpu")
    there = run(tiny, tmp_path / "there", "ptq_percentile", *flags)
    assert state_hash(here) == state_hash(there)
