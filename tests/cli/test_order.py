"""The order of arguments changes nothing without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.cli.flags import PRESETS, expand_presets
from qat.cli.order import arguments_of, in_order
from qat.system.errors import UserError
from tests.conftest import ROOT

CONFIG = "configs/mini_wav2vec2.yaml"


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("config", [["--config", CONFIG], [f"--config={CONFIG}"], ["-c", CONFIG]])
def test_a_configuration_comes_first_wherever_it_stands(config: list[str]) -> None:
    flags = ["--data.num_workers", "2", "--print_config", "--run=x", "--model.weight_decay", "-1"]
    for place in (0, 2, 3, 4, 6):
        assert in_order([*flags[:place], *config, *flags[place:]]) == [*config, *flags]


def test_several_configurations_keep_their_order() -> None:
    args = ["--run", "x", "--config", CONFIG, "--data.num_workers", "2", "--config", "{seed_everything: 3}"]
    first = ["--config", CONFIG, "--config", "{seed_everything: 3}"]
    assert in_order(args) == [*first, "--run", "x", "--data.num_workers", "2"]


@pytest.mark.parametrize(
    "flag",
    ["--data.max_batch_s=20", "--data.init_args.max_batch_s=20", "--model.config={}", "--model=CRDNNModule"]
    + ["--model.config.layerdrop=0.1", "--qat.rules+={match: cnn}", "--seed_everything=2", "--trainer={}"],
)
def test_a_flag_before_a_configuration_that_sets_it_too_is_one_line(flag: str) -> None:
    name = arguments_of([flag])[0].name
    with pytest.raises(UserError) as caught:
        in_order(["--run", "x", flag, "--config", CONFIG])
    message = f"--{name}: must stand after --config {CONFIG}, which sets it too; put --config first"
    assert str(caught.value) == message
    assert in_order(["--config", CONFIG, flag]) == ["--config", CONFIG, flag]


def test_a_preset_before_a_configuration_is_taken_unless_both_set_the_same(tmp_path: Path) -> None:
    preset = ["--qat", str(PRESETS / "stochastic.yaml")]
    assert expand_presets(["--qat", "stochastic", "--config", CONFIG]) == ["--config", CONFIG, *preset]
    (tmp_path / "own.yaml").write_text("qat: {preset: mine}")
    with pytest.raises(UserError, match="--qat: must stand after --config .*own.yaml, which sets it too"):
        expand_presets(["--qat", "stochastic", "--config", str(tmp_path / "own.yaml")])


def test_a_class_comes_before_its_options_and_after_the_configuration() -> None:
    options = ["--model.rnn_layers", "2", "--data.root", "x"]
    expected = [
        "--config",
        CONFIG,
        "--run",
        "x",
        "--model=Wav2Vec2Module",
        *options[:2],
        "--data",
        "Libri",
        *options[2:],
    ]
    args = ["--run", "x", *options, "--data", "Libri", "--model=Wav2Vec2Module"]
    assert in_order(["--config", CONFIG, *args]) == expected
    whole = [
        "--model.rnn_layers",
        "2",
        "--model",
        "{class_path: X}",
    ]  # may set the option too: a later flag wins
    assert in_order(whole) == whole


def test_later_flags_stay_later() -> None:
    args = ["--config", CONFIG, "--data.seed", "1", "--qat.seed", "2", "--data.seed=3", "--qat", "x.yaml"]
    assert in_order(args) == args


def test_a_missing_configuration_is_named_wherever_it_stands() -> None:
    with pytest.raises(UserError, match=r"configs/mini_crdn\.yaml: must be .*'configs/mini_crdnn\.yaml'\?"):
        in_order(["--run", "x", "--config", "configs/mini_crdn.yaml"])


def test_a_remote_configuration_stays_where_it_is() -> None:
    args = ["--run", "x", "--config", "s3://bucket/own.yaml"]
    assert in_order(args) == args
