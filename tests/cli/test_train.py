"""The command line: every configuration, every preset, later flags, one-line errors, a whole tiny run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from qat import models
from qat.cli import train as cli
from qat.cli.flags import preset_names
from qat.layer_recipe import LayerRecipe
from qat.recipe import Recipe
from qat.report.row import load_report
from qat.system.errors import UserError
from tests.conftest import ROOT
from train import train

CONFIGS = sorted(ROOT.glob("configs/*.yaml"))
PRESETS = sorted(ROOT.glob("configs/qat/*.yaml"))


class ParseOnly(cli.SpeechCLI):
    """Parses, builds nothing."""

    def instantiate_classes(self) -> None:
        """Leave it at the parsed configuration."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cli, "SpeechCLI", ParseOnly)
    return lambda *args: cli.build_cli(list(args)).config


def test_there_are_configurations_and_presets() -> None:
    assert len(CONFIGS) == 19 and len(PRESETS) == 12


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_parses(path: Path, parse: Any) -> None:
    config = parse("--config", str(path), "--run", "x/y")
    assert config.model.class_path in [f"qat.models.{name}" for name in models.__all__]
    assert config.qat.preset == "off"


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_named_as_its_file(path: Path, parse: Any) -> None:
    config = parse("--qat", path.stem, "--run", "x/y")
    assert config.qat.preset == path.stem
    assert config.model.init_args.recipe["preset"] == path.stem
    assert (config.trainer.max_epochs == 0) == path.stem.startswith(("ptq", "adaround", "dynamic"))


def test_later_flags_win(parse: Any) -> None:
    config = parse("--run", "x/y", "--qat", "stochastic", "--qat.weight_bits", "4", "--qat.weight_bits=3")
    assert config.qat.weight_bits == 3 and config.qat.rounding == "stochastic"
    assert config.model.init_args.recipe["weight_bits"] == 3
    assert parse("--run", "x/y", "--qat.weight_bits", "4", "--qat", "stochastic").qat.preset == "stochastic"


def test_the_rule_of_the_mini_wav2vec2_reaches_its_feature_extractor_under_every_preset(parse: Any) -> None:
    for preset in preset_names():
        config = parse("--config", "configs/mini_wav2vec2.yaml", "--run", "x/y", "--qat", preset)
        recipe = Recipe.from_dict(config.model.init_args.recipe)
        assert recipe.preset == preset
        if recipe.active:
            layer = recipe.for_layer("hf.x", {"feature_extractor": ["hf.*"]})
            assert isinstance(layer, LayerRecipe) and layer.percentile == 99.6 != recipe.percentile
            by_frame = [
                recipe.for_layer(f"hf.conv_layers.{place}.conv", {"feature_extractor": ["hf.*"]})
                for place in range(7)
            ]
            assert [isinstance(item, LayerRecipe) and item.by_frame for item in by_frame] == [
                *([False, True, True, True]),
                *([False] * 3),
            ]
            first = recipe.for_layer("hf.conv_layers.0.conv", {"feature_extractor": ["hf.*"]})
            assert isinstance(first, LayerRecipe) and first.activation_bits is None
            assert first.weight_bits == layer.weight_bits


def test_a_users_own_preset_file(parse: Any, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("preset: mine\nrules: [{match: cnn, weight_bits: 4}, {match: head, quantize: false}]\n")
    recipe = parse("--qat", str(own), "--run", "x/y").model.init_args.recipe
    assert recipe["preset"] == "mine" and recipe["rules"][0]["weight_bits"] == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--qat", "stochastik"], r"--qat 'stochastik'.*deterministic"),
        (["--qat.weight_bitz", "4"], "weight_bitz"),
        (["--qat", "ptq_max", "--qat.weight_bits", "1"], r"weight_bits: 1 .*2 to 8"),
        (["--qat", "ptq_max", "--qat.activation_bits", "9"], r"activation_bits: 9 .*2 to 8"),
        (["--qat.rounding", "up"], "up"),
        (["--trainer.max_epoch", "4"], "max_epoch"),
        (["--model.rnn_neuron", "4"], "rnn_neuron"),
        (["--config", "configs/nowhere.yaml"], "nowhere"),
        (["--frobnicate"], "frobnicate"),
    ],
)
def test_a_typo_is_one_clear_line(args: list[str], message: str, parse: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse("--run", "x/y", *args)
    assert "\n" not in str(caught.value)


def test_help_fits_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    train(["--help"])
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 30
    for word in ("--qat", "--run", "--ckpt_path", "stochastic", "--help_all"):
        assert word in text


def test_bad_rules_and_checkpoints_leave_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    common = ["--config", str(tiny), "--run", str(run), "--wandb.enabled", "false"]
    with pytest.raises(UserError, match="'nothing' matches no layer"):
        train([*common, "--qat", "ptq_max", "--qat.rules", "[{match: nothing}]"])
    with pytest.raises(UserError, match=r"--ckpt_path last: must be .*holds no last\.ckpt"):
        train([*common, "--ckpt_path", "last"])
    (tmp_path / "start.ckpt").write_bytes(b"broken")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        train([*common, "--qat", "ptq_max"])
    assert not run.exists()


def test_an_impossible_value_is_one_line_and_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    common = ["--config", str(tiny), "--run", str(run), "--wandb.enabled", "false"]
    for flag in (
        "--trainer.precision=bf16-true", "--trainer.accumulate_grad_batches=0", "--trainer.max_epochs=-2",
        "--trainer.devices=0", "--trainer.gradient_clip_val=-1", "--seed_everything=-1", "--model.learning_rate=-1",
        "--model.warmup_steps=-5", "--model.weight_decay=-1", "--evaluation.threads=0", "--data.seed=-1",
        "--qat.seed=-1",
    ):  # fmt: skip
        name = flag.lstrip("-").partition("=")[0].rpartition(".")[2]
        with pytest.raises(UserError, match=rf"{name}.*must be ") as caught:
            train([*common, flag])
        assert "\n" not in str(caught.value)
    assert not run.exists()


def test_what_a_library_says_of_a_models_options_is_one_line(tmp_path: Path) -> None:
    config = str(ROOT / "configs" / "mini_wav2vec2.yaml")
    run = tmp_path / "run"
    with pytest.raises(UserError, match="model.config: must describe a Wav2Vec2 that can be built") as caught:
        train(
            [
                "--config",
                config,
                "--run",
                str(run),
                "--model.init_from=null",
                "--model.config.num_attention_heads=7",
            ]
        )
    assert "\n" not in str(caught.value) and not run.exists()


def test_a_search_that_the_model_cannot_follow_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match="decoding.beam: must be left out for"):
        train(["--config", str(tiny), "--run", str(run), "--wandb.enabled", "false", "--decoding.beam", "4"])
    assert not run.exists()


def test_a_bad_manifest_is_reported_before_the_run_folder_is_made(tiny: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(tiny.read_text())
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    config["data"]["init_args"]["dev"] = str(empty)
    tiny.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"empty\.jsonl"):
        train(["--config", str(tiny), "--run", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_batch_too_short_for_a_clip_is_reported_before_the_run_folder_is_made(
    tiny: Path, tmp_path: Path
) -> None:
    command = ["--config", str(tiny), "--run", str(tmp_path / "run"), "--data.max_batch_s", "0.6"]
    with pytest.raises(UserError, match=r"max_batch_s is 0\.6, but an utterance needs"):
        train(command)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["crdnn"], indirect=True)
def test_a_start_that_failed_does_not_block_its_name(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--config", str(tiny), "--run", str(tmp_path / "run"), "--wandb.enabled", "false"]

    def fail(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("lightning.pytorch.Trainer.fit", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(command)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "start.json"} <= names
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", lambda *arguments, **named: None)
    train([*command, "--qat", "ptq_max"])
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["qat"]["preset"] == "ptq_max"


def test_a_run_folder_in_use_or_unwritable_is_refused(tiny: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "report.json").write_text("[]")
    with pytest.raises(UserError, match="must name a new run, and .*used already holds one"):
        train(["--config", str(tiny), "--run", str(used)])
    assert (used / "report.json").read_text() == "[]"
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="--run: .*run must be writable"):
        train(["--config", str(tiny), "--run", str(blocked / "run"), "--wandb.enabled", "false"])


@pytest.mark.slow
def test_a_stochastic_run_reports_float_ptq_and_trained_integer_files(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(["--config", str(tiny), "--qat", "stochastic", "--run", str(run), "--model.learning_rate", "0.05"])
    rows = load_report(run / "report.json")
    assert [(row.split, row.method) for row in rows] == [
        (split, method) for split in ("test_a", "test_b") for method in ("float", "ptq", "stochastic")
    ]
    for row in rows:
        assert row.precision == ("float" if row.method == "float" else "integer")
        if row.precision == "integer":
            assert row.integer_nodes and row.coverage and row.coverage.weights == 1.0
            assert row.parity and row.parity.argmax_disagreement is not None
            assert row.parity.argmax_disagreement <= 0.5
    names = {path.name for path in run.iterdir()}
    expected = {
        "report.json",
        "report.md",
        "config.yaml",
        "model.ckpt",
        "ptq.ckpt",
        "last.ckpt",
        "metrics.csv",
    }
    assert expected | {"float.onnx", "ptq.onnx", "model.onnx", "wer.png", "latency.png", "sqnr.png"} <= names
    output = capsys.readouterr().out
    assert "swapped" in output or "run folder" in output
    start = torch.load(tmp_path / "start.ckpt", weights_only=True)["state_dict"]
    final = torch.load(run / "model.ckpt", weights_only=True)["state_dict"]
    assert any(not torch.equal(start[key], final[key]) for key in start if key.endswith("head.weight"))
    again = ["--config", str(tiny), "--run", str(run), "--ckpt_path", "last", "--model.learning_rate", "0.05"]
    with pytest.raises(
        UserError, match="recipe is .*preset='stochastic'.* and must be .*preset='deterministic'"
    ):
        train([*again, "--qat", "deterministic"])
    again[again.index("last")] = str(run / "model.ckpt")
    with pytest.raises(UserError, match=r"model\.ckpt: holds weights only .* optimiser.*--model\.init_from"):
        train([*again, "--qat", "stochastic"])
