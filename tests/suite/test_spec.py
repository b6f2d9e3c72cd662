"""Suite files: the shipped one, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from qat.cli.flags import expand_presets, preset_names
from qat.models.attention_options import AttentionOptions
from qat.models.crdnn import CRDNNOptions
from qat.models.wav2vec2 import Wav2Vec2Options
from qat.recipe import Recipe
from qat.suite.spec import ROOT, load_suite, suite_names
from qat.system.errors import UserError


def test_the_shipped_suites_load_and_their_rows_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row's flags are a recipe that train.py takes, and every table finds its rows."""
    monkeypatch.chdir(ROOT)
    assert suite_names() == ["seed_tables"]
    suite = load_suite("seed_tables")
    headings = [table.heading.split(":")[0] for table in suite.tables]
    assert headings == [*(f"Table {n}" for n in range(1, 12)), "Language model"]
    # but those of longer training or more speech
    ctc = [
        row.name
        for row in suite.rows
        if row.model == "crdnn" and not row.name.endswith(("_mixed", "_long", "_longer"))
    ]
    attention = [row.name for row in suite.rows if row.model == "crdnn_attention"]
    assert attention == [*ctc, "w8a8_no_lm", "w8a8_float_lm"], "all other rows once more"
    of_crdnn = [table for table in suite.tables if table.model == "crdnn"]
    assert len(of_crdnn) == 6 and all(table.also == ("crdnn_attention",) for table in of_crdnn)
    for row in suite.rows:
        flags = list(row.args)
        expand_presets(flags)
        preset = flags[flags.index("--qat") + 1]
        assert preset in preset_names()
        values = yaml.safe_load((ROOT / "configs" / "qat" / f"{preset}.yaml").read_text())
        for flag, value in zip(flags, flags[1:], strict=False):
            if flag.startswith("--qat."):
                values[flag.removeprefix("--qat.")] = yaml.safe_load(value)
        Recipe.from_dict(values)
        model_options(suite.configs[row.model], flags)
    for name in ("qat_w8a8", "stochastic_w8a8", "control"):
        for model in suite.configs:
            assert suite.row(f"{model}/{name}").seeds == (1, 2, 3)


OPTIONS = {
    "CRDNNModule": CRDNNOptions,
    "AttentionModule": AttentionOptions,
    "Wav2Vec2Module": Wav2Vec2Options,
}


def model_options(config: Path | str, flags: list[str]) -> None:
    """Refuse `--model.*` flags that the configuration's model does not take."""
    model = yaml.safe_load((ROOT / config).read_text())["model"]
    values = {key: value for key, value in model["init_args"].items() if key != "init_from"}
    for flag, value in zip(flags, flags[1:], strict=False):
        if flag.startswith("--model."):
            values[flag.removeprefix("--model.")] = yaml.safe_load(value)
    OPTIONS[model["class_path"].rsplit(".", 1)[-1]](**values)


def test_a_rows_options_of_a_model_are_checked() -> None:
    with pytest.raises(UserError, match="splice_share: 0.5, must be 0"):
        model_options(
            "configs/mini_crdnn_attention.yaml", ["--model.teacher", "x", "--model.splice_share", "0.5"]
        )


def change(key: str, value: Any) -> Any:
    def act(content: dict[str, Any]) -> None:
        content[key] = value

    return act


@pytest.mark.parametrize("kind", ["crdnn"])
@pytest.mark.parametrize(
    ("act", "message"),
    [
        (change("rows", {}), "rows is missing or empty"),
        (change("models", {"mine": "nowhere.yaml"}), "nowhere.yaml: must be an existing configuration file"),
        (
            lambda content: content["tables"][0]["rows"][0].update(rows=["typo"]),
            "'typo' must be a row of mine",
        ),
        (lambda content: content["tables"][0].update(model="other"), "model is 'other', must be one of mine"),
        (lambda content: content["aims"][0].update(kind="x"), "kind is 'x', must be one of insignificant"),
        (lambda content: content["aims"][0].update(rows=["y"]), "'y' must be a row of some model"),
        (
            lambda content: content["aims"][0].update(missed={"typo": "x"}),
            "missed names 'typo', must be one of mine",
        ),
        (
            lambda content: content["aims"][0].update(models=["typo"]),
            "models names 'typo', must be one of mine",
        ),
        (lambda content: content["tables"][0].update(also=["typo"]), "model is 'typo', must be one of mine"),
        (lambda content: content["rows"]["mine"]["w8a8"].update(seeds=[0]), r"seeds is \[0\], must be"),
    ],
)
def test_a_bad_suite_is_one_line(kind: str, suite_file: Path, act: Any, message: str) -> None:
    content = yaml.safe_load(suite_file.read_text())
    act(content)
    suite_file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError, match=message):
        load_suite(str(suite_file))


@pytest.mark.parametrize("kind", ["crdnn"])
def test_flags_of_a_model_follow_those_of_each_of_its_rows(kind: str, suite_file: Path) -> None:
    content = yaml.safe_load(suite_file.read_text())
    content["flags"] = {"mine": "--evaluation.variants false"}
    suite_file.write_text(yaml.safe_dump(content, sort_keys=False))
    suite = load_suite(str(suite_file))
    assert all(row.args[-2:] == ("--evaluation.variants", "false") for row in suite.rows)
