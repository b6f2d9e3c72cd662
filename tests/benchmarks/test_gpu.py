"""The GPU benchmark says that there is no GPU, measures what it names, and ends with the status of its checks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_page import related
from benchmarks.gpu_rows import FAILED, NOT_RUN, PASSED, Results, check_row
from benchmarks.gpu_sizes import COMPILED, RECIPES, sizes


def test_without_a_gpu_it_says_so_in_one_line_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--quick"])
    with pytest.raises(SystemExit) as caught:
        gpu.main()
    said = capsys.readouterr()
    assert caught.value.code == 2 and not said.out
    assert said.err.count("\n") == 1 and "must run where PyTorch sees a GPU" in said.err


@pytest.mark.parametrize("quick", [False, True])
def test_what_it_measures_exists(quick: bool) -> None:
    names = {size.name for size in sizes()}
    assert {model for model, _ in gpu.plain_jobs(quick)} <= names
    assert {variant for _, variant in gpu.plain_jobs(quick)} == set(RECIPES)
    assert {variant for _, variant in gpu.compiled_jobs(quick)} == (set() if quick else set(COMPILED))
    assert gpu.MEASURING_S[quick] < gpu.LIMIT_S[quick]


@pytest.mark.parametrize(("status", "wanted"), [(PASSED, 0), (NOT_RUN, 0), (FAILED, 1)])
def test_the_exit_status_is_1_where_a_check_has_failed(
    status: str, wanted: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results({}, related, tmp_path / "gpu.json", say=lambda line: None)
    results.add(check_row("presets", "crdnn off", PASSED))
    results.add(check_row("presets", "crdnn stochastic", status, note="the end of its output"))
    assert gpu.report(results) == wanted
    assert f"{1 + (status == PASSED)} passed" in capsys.readouterr().out


def test_an_error_of_the_program_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(gpu.Measurement, "start", lambda self: None)
    monkeypatch.setattr(gpu.Measurement, "end", lambda self: ended.append(self.log.name))
    monkeypatch.setattr(gpu.Pool, "run", lambda self, cases: 1 / 0)
    options = argparse.Namespace(rehearse=True, quick=False, parts=["checks", "steps"], only=[""])
    with pytest.raises(ZeroDivisionError):
        gpu.work(options, Results({}, related, tmp_path / "gpu.json"), tmp_path)
    assert ended == ["steps-0.log", "steps-1.log", "steps-2.log", "steps-3.log"]
