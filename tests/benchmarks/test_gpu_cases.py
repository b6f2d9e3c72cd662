"""The cases of the GPU benchmark: their commands parse, they need what is there, and they cover every preset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_cases import ATTENTION, MODELS, PRESETS, QUICK, Place, cases, wrong_report
from qat.cli import train as cli
from qat.cli.check import check_arguments
from qat.cli.evaluate import parse
from qat.cli.flags import preset_names
from tests.conftest import ROOT

PLACE = Place(Path("/nowhere/runs"), gpus=2)


def test_every_preset_of_both_models_is_among_them() -> None:
    assert sorted(PRESETS) == preset_names()
    names = [case.name for case in cases(PLACE)]
    assert {f"{model} {preset}" for model in MODELS for preset in PRESETS} <= set(names)
    assert len(set(names)) == len(names)


def test_a_quick_run_holds_all_that_its_cases_need() -> None:
    quick = cases(PLACE, quick=True)
    names = {case.name for case in quick}
    assert names == set(QUICK)
    assert all(set(case.needs) <= names for case in quick)


def test_runs_have_folders_of_their_own() -> None:
    folders = [case.report for case in cases(PLACE) if case.report and case.group != "without a GPU"]
    assert len(set(folders)) == len(folders)


def test_two_gpus_need_two() -> None:
    not_run = {case.group: case.not_run for case in cases(Place(Path("/nowhere")))}
    assert [group for group, reason in not_run.items() if reason] == ["two GPUs"]
    assert not any(case.not_run for case in cases(PLACE))


@pytest.mark.parametrize("model", [*MODELS, ATTENTION])
def test_training_commands_parse(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command with the flags of all, of a rehearsal as well."""

    class ParseOnly(cli.SpeechCLI):
        def instantiate_classes(self) -> None:
            pass

    monkeypatch.setattr(cli, "SpeechCLI", ParseOnly)
    monkeypatch.chdir(ROOT)
    chosen: list[str] = []
    for place in (PLACE, Place(PLACE.folder, "cpu", tiny=True)):
        for case in cases(place):
            for command in case.commands:
                if command.arguments[0] == "train.py" and case.name.split()[0] == model:
                    chosen += [item for item in command.arguments[1:] if item != "last"]
    pairs = dict(zip(chosen, chosen[1:], strict=False))
    elsewhere = ("--config", "--ckpt_path", "--run", "--evaluation.cache")  # whose values are files
    names = [name for name in pairs if name.startswith("--") and name not in elsewhere]
    flags = [item for name in names for item in (name, pairs[name])]
    check_arguments(["--config", f"configs/mini_{model}.yaml", *flags])
    config: Any = cli.build_cli(["--config", f"configs/mini_{model}.yaml", *flags]).config
    assert config.trainer.max_epochs == 1 and config.evaluation.enabled is False


def test_commands_of_evaluate_parse_and_see_no_gpu() -> None:
    found = [
        command for case in cases(PLACE) for command in case.commands if command.arguments[0] == "evaluate.py"
    ]
    assert {parse(command.arguments[1:]).command for command in found} == {"report", "compare", "transcribe"}
    assert not any(command.sees_gpu for command in found)


def test_a_report_must_be_there_finite_and_of_an_integer_file(tmp_path: Path) -> None:
    assert "is not there" in wrong_report(tmp_path, True)
    for rows, quantized, wanted in (
        ([], False, "holds no row"),
        ([{"wer": float("nan"), "integer_nodes": 3}], True, "not finite"),
        ([{"wer": 3.0, "integer_nodes": 0}], True, "integer file"),
        ([{"wer": 3.0, "integer_nodes": 0}], False, ""),
        ([{"wer": 3.0, "integer_nodes": 0}, {"wer": 4.0, "integer_nodes": 9}], True, ""),
    ):
        (tmp_path / "report.json").write_text(json.dumps(rows))
        wrong = wrong_report(tmp_path, quantized)
        assert wanted in wrong and bool(wanted) == bool(wrong)
