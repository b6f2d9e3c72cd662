"""Mistakes that are reported before torch is imported, in the words of the whole parser."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.cli.check import check_arguments, flags_of
from qat.system.errors import UserError
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--qat", "stocastic"], "--qat 'stocastic': must be one of .*; did you mean 'stochastic'?"),
        (["--qat.weight_bit", "4"], "--qat.weight_bit: must be a known option; did you mean --qat.weight_bits?"),
        (["--wandb.enable=1"], "--wandb.enable: must be a known option; did you mean --wandb.enabled?"),
        (["--trainr.max_steps", "4"], "--trainr.max_steps: must be a known option; did you mean --trainer.max_steps?"),
        (["--rnu", "x"], "--rnu: must be a known option; did you mean --run?"),
        (["--frobnicate"], "--frobnicate: must be a known option"),
        (["--qat", "ptq_max", "--qat.weight_bits", "1"], "qat.weight_bits: 1 must be 2 to 8, or null (0) for float"),
        (["--qat.rounding", "up"], "qat.rounding: 'up' must be nearest or stochastic"),
        (["--qat.rules+", "{match: cnn, weigth_bits: 3}"], "qat.rules.weigth_bits: .* mean qat.rules.weight_bits?"),
        (["--decoding.bem", "3"], "--decoding.bem: must be a known option; did you mean --decoding.beam?"),
        (["--decoding.beam", "0"], "decoding.beam: 0, must be a whole number, 1 or more"),
        (["--save_every_steps", "0"], "save_every_steps: 0 must be a whole number from 1 or null"),
        (["--config", "configs/mini_crdn.yaml"], "configs/mini_crdn.yaml: must be .*'configs/mini_crdnn.yaml'?"),
        (["--run", "mini_crdnn"], "--run mini_crdnn: must name a new run, and .* already holds one"),
        (["--run", "mini_crdnn", "--ckpt_path=last"], "--ckpt_path last: must be .*/mini_crdnn holds no last"),
        (["--run", "mini_crdnn", "--ckpt_path=x.ckpt"], "--ckpt_path x.ckpt: must be .*; there is no such file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_nearest_name(
    args: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    pattern = "^" + message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?").replace("+", r"\+")
    with pytest.raises(UserError, match=pattern) as caught:
        check_arguments(args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qat: {weight_bit: 4}", "qat.weight_bit: must be a known option; did you mean qat.weight_bits?"),
        ("qat: {weight_bits: x}", "qat.weight_bits: 'x' must be a whole number or null"),
        ("modle: {}", "own.yaml: modle: must be a known option; did you mean model?"),
        ("[1]", "own.yaml: must be a mapping of settings"),
        ("a: [", "own.yaml: must be YAML"),
    ],
)
def test_a_mistake_in_a_configuration_file_is_named(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        check_arguments(["--config", "own.yaml"])
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--qat", "stochastic", "--qat.weight_bits=4", "--qat.rules+", "{match: cnn}", "--run", "x/new"],
        ["--model", "CRDNNModule", "--model.learnin_rate", "1", "--data.x", "-1", "--trainer.x+", "y"],
        ["--config", "{qat: {weight_bits: 4}}", "--seed_everything=false", "--print_config"],
        ["--config", "s3://bucket/own.yaml", "--qat.quant_noise", "1e-1", "--evaluation.cache", "null"],
        ["--run", "mini_crdnn", "--ckpt_path", "checkpoints/mini_crdnn/model.ckpt"],
    ],
)
def test_what_it_cannot_judge_is_left_to_the_whole_parser(
    args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    check_arguments(args)


def test_a_later_flag_wins() -> None:
    check_arguments(["--qat.weight_bits", "1", "--qat.weight_bits", "4"])


def test_every_configuration_passes() -> None:
    for path in ROOT.glob("configs/*.yaml"):
        check_arguments(["--config", str(path)])


def test_a_flag_whose_value_is_missing_takes_none_of_the_next() -> None:
    assert flags_of(["--run", "--qat.seed", "1"]) == [("run", None), ("qat.seed", "1")]


def test_other_ranks_leave_the_run_folder_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("qat.runs.launched_rank", lambda: 1)
    check_arguments(["--run", "mini_crdnn"])
