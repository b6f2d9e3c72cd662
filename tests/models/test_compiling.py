"""Compiled training computes what uncompiled training does, in few graphs, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from datamodules.base import SpeechDataModule
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.models import compiling
from qat.models.compiling import Compiled, CompiledCall, check_compiler
from qat.models.ctc import CTCModule
from qat.numerics import fused
from qat.recipe import Recipe
from qat.report.row import load_report
from qat.rule import Rule
from qat.system.errors import UserError
from tests.callbacks.fits import fit
from tests.conftest import TINY_WAV2VEC2, build, noise
from tests.models.conftest import padded_batch
from train import train

STOCHASTIC = Recipe(preset="stochastic", rounding="stochastic")
LEARNED = Recipe(  # linear inputs are quantized in blocks
    preset="low_bit", weight_bits=4, learn_scale=True, four_bit_linear="matmul_nbits"
)
BY_FRAME = Recipe(
    preset="by_frame",
    rounding="stochastic",
    rules=[Rule("feature_extractor", activation_granularity="frame")],
)
CASES = [
    ("crdnn", None),
    ("crdnn", LEARNED),
    ("crdnn", Recipe(preset="quant_noise", quant_noise=0.5)),
    ("wav2vec2", None),
    ("wav2vec2", LEARNED),
    ("wav2vec2", BY_FRAME),
]
SHORT = {
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
}


@pytest.fixture(autouse=True)
def light_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch traces each part and then runs the same operations as without; a graph break is an error.

    Tracing with free lengths is ten times slower: tests that have one length do without.
    """
    torch._dynamo.reset()
    for name, value in {"backend": "eager", "fullgraph": True, "dynamic": False}.items():
        monkeypatch.setitem(compiling.COMPILER, name, value)
    yield
    torch._dynamo.reset()


def calibrated(kind: str, recipe: Recipe | None, **arguments: Any) -> CTCModule:
    """A tiny model of few convolutions in training mode, switched on."""
    if kind == "wav2vec2":
        arguments["config"] = {**TINY_WAV2VEC2["config"], **SHORT, **arguments.get("config", {})}
    model = build(kind, recipe, **arguments)
    if recipe is not None:
        model.eval()
        set_observing_(model, True)
        with torch.no_grad():
            model(*padded_batch())
        set_observing_(model, False)
        calibrate_weights_(model)
        finish_calibration_(model)
        model.quantize()
    return model.train()


def compile_(model: CTCModule) -> Compiled:
    model.compiled = Compiled(model, model.compiled_parts(), model.compiled_functions)
    return model.compiled


def step_(model: CTCModule, index: int, seconds: float = 1.5) -> Tensor:
    """One training step on noise; its loss."""
    model.step_key.step = index
    torch.manual_seed(index)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    lengths = torch.tensor([16_000 * seconds, 14_000 * seconds, 8_000]).long()
    logits, frames = model(noise(3, seconds, index), lengths)
    loss = model.ctc_loss(logits, frames, ["turn on", "light", "a"])
    loss.backward()
    optimizer.step()
    return loss.detach()


def assert_equal_states(one: nn.Module, two: nn.Module) -> None:
    """Keys and values, bit for bit."""
    first, second = one.state_dict(), two.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def graphs_of(run: Callable[[], Any]) -> int:
    """How many graphs are compiled while it runs."""
    before = compiling.counts()[0]
    run()
    return compiling.counts()[0] - before


@pytest.mark.parametrize(
    ("kind", "recipe"), CASES, ids=lambda value: value if isinstance(value, str) else value and value.preset
)
def test_compiled_training_equals_uncompiled_training_bit_for_bit(kind: str, recipe: Recipe | None) -> None:
    plain, model = calibrated(kind, recipe), calibrated(kind, recipe)
    compiled = compile_(model)
    for index in range(2):
        assert torch.equal(step_(plain, index), step_(model, index))
    assert compiled.stop_().endswith("graphs, no graph breaks")
    assert_equal_states(plain, model)


def test_the_kernels_of_a_gpu_are_called_from_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPU tensors, through Triton's interpreter."""
    pytest.importorskip("triton")
    monkeypatch.setattr(fused, "FORCED", True)
    smaller = {"rnn_layers": 1, "rnn_neurons": 4, "dnn_blocks": 1}
    plain, model = (calibrated("crdnn", STOCHASTIC, **smaller) for _ in range(2))
    compiled = compile_(model)
    for index in range(2):
        assert torch.equal(step_(plain, index, 0.6), step_(model, index, 0.6))
    compiled.stop_()
    assert_equal_states(plain, model)


def test_neither_layers_nor_steps_nor_lengths_add_graphs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compiling.COMPILER, "dynamic", True)
    deeper = {"crdnn": {"dnn_blocks": 4}, "wav2vec2": {"config": {"num_hidden_layers": 4}}}
    plain, model = (calibrated(kind, STOCHASTIC, **deeper[kind]) for _ in range(2))
    compiled = compile_(model)
    # two shapes of DNN block; the first convolution, the projection, the transformer layer
    assert graphs_of(lambda: step_(model, 0)) == {"crdnn": 2, "wav2vec2": 3}[kind]
    assert graphs_of(lambda: [step_(model, 1, 1.2), step_(model, 2, 1.8)]) == 0
    compiled.stop_()
    for index, seconds in enumerate((1.5, 1.2, 1.8)):
        step_(plain, index, seconds)
    assert_equal_states(plain, model)


def test_what_pytorch_differentiates_itself_is_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a real compiler gets it: gradients traced too. Some are then other formulas: float32 rounding differs."""
    monkeypatch.setitem(compiling.COMPILER, "backend", "aot_eager")
    plain, model = calibrated("crdnn", LEARNED), calibrated("crdnn", LEARNED)
    compiled = compile_(model)
    torch.testing.assert_close(step_(plain, 0), step_(model, 0))
    compiled.stop_()
    for one, two in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_validation_runs_uncompiled(kind: str) -> None:
    model = calibrated(kind, STOCHASTIC).eval()
    plain = model(*padded_batch())[0]
    compiled = compile_(model)
    assert graphs_of(lambda: model(*padded_batch())) == 0
    assert torch.equal(model(*padded_batch())[0], plain)
    compiled.stop_()


@pytest.mark.parametrize("kind", ["crdnn"])
def test_a_fit_compiles_after_calibration_and_leaves_plain_modules(
    kind: str, tiny_data: SpeechDataModule
) -> None:
    ends: list[CTCModule] = []
    for choice in (False, True):
        model: Any = build(kind, Recipe(preset="deterministic"), compile=choice)
        seen: list[bool] = []
        model.head.register_forward_hook(lambda *_, model=model, seen=seen: seen.append(bool(model.compiled)))
        fit(model, tiny_data, max_steps=1)
        assert seen[-1] is choice and not any(seen[:-1])
        assert not any("_compiled_call_impl" in vars(part) for part in model.modules())
        ends.append(model)
    assert_equal_states(*ends)


def test_settings_of_the_compiler_are_restored() -> None:
    config = torch._dynamo.config
    before = config.recompile_limit, config.optimize_ddp
    compiled = Compiled(nn.Linear(1, 1), [])
    assert (config.recompile_limit, config.optimize_ddp) == (compiling.GRAPHS_PER_CLASS, False)
    assert compiled.stop_() == "compiled 0 parts into 0 graphs, no graph breaks"
    assert (config.recompile_limit, config.optimize_ddp) == before


def test_what_breaks_a_graph_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return x + 1

    monkeypatch.setitem(compiling.COMPILER, "fullgraph", False)
    model = nn.Sequential(Breaking())
    compiled = Compiled(model, model.children())
    assert isinstance(vars(model[0])["_compiled_call_impl"], CompiledCall)
    assert torch.equal(model(torch.zeros(2)), torch.ones(2))
    assert ", graph breaks: " in compiled.stop_()


def test_a_machine_that_cannot_compile_is_found_out_before_training(
    monkeypatch: pytest.MonkeyPatch, tiny_data: SpeechDataModule
) -> None:
    check_compiler(torch.device("cpu"))

    def broken(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler\nin 99 lines")

    torch._dynamo.reset()
    monkeypatch.setitem(compiling.COMPILER, "backend", broken)
    with pytest.raises(UserError, match=r"compile: true, must be false where torch.compile .*no C\+\+ comp"):
        fit(build("crdnn", compile=True), tiny_data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crdnn"])
def test_the_flag_leads_to_a_report(tiny: Path, tmp_path: Path) -> None:
    args = ["--config", str(tiny), "--run", str(tmp_path / "run"), "--wandb.enabled", "false"]
    args += ["--trainer.limit_train_batches", "1", "--evaluation.repeats", "1", "--evaluation.twin", "false"]
    train([*args, "--qat", "stochastic", "--model.compile", "true"])
    assert [row.method for row in load_report(tmp_path / "run" / "report.json")][-1] == "stochastic"
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["init_args"]["compile"] is True
