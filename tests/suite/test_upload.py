"""Stored rows on Weights & Biases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb

from qat.suite import upload
from qat.suite.spec import Suite
from qat.suite.store import Results
from qat.suite.upload import suite_run_id, upload_suite


def test_one_run_per_stored_row_and_a_summary(
    suite: Suite, results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    logged: dict[str, Any] = {}

    class Run:
        summary: dict[str, Any] = {}

        def __enter__(self) -> Run:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def log(self, values: dict[str, Any]) -> None:
            logged.update(values)

    monkeypatch.setattr(upload, "choose_mode", lambda offline: ("offline", "as asked"))
    monkeypatch.setattr(wandb, "init", lambda **arguments: started.append(arguments) or Run())
    results.rows[-1] = replace(
        results.rows[-1], weight_bits="3/8"
    )  # text among numbers, as mixed rules have it
    assert upload_suite(suite, results, tmp_path / "wandb") == len(results.rows) + 1
    assert [item["name"] for item in started][-2:] == ["mine/ada ada-s1", "demo summary"]
    assert {item["group"] for item in started} == {"demo"}
    assert len({item["id"] for item in started}) == len(started)
    assert started[1]["config"]["suite_row"] == "mine/w8a8"
    table = logged["rows"]
    assert "wer" in table.columns and "latency_ms" not in table.columns
    assert (
        len(table.data) == len(results.rows) and table.data[-1][table.columns.index("weight_bits")] == "3/8"
    )


def test_a_row_keeps_its_id(suite: Suite) -> None:
    assert suite_run_id(suite, "a") == suite_run_id(suite, "a") != suite_run_id(suite, "b")


def test_nothing_is_uploaded_where_wandb_is_disabled(
    suite: Suite,
    results: Results,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(upload, "choose_mode", lambda offline: ("disabled", "WANDB_MODE=disabled"))
    assert upload_suite(suite, results, tmp_path / "wandb") == 0
    assert "not used (WANDB_MODE=disabled)" in capsys.readouterr().err
