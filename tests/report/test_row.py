"""Rows: every field checked, every null explained, the same bytes on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qat.report.row import (
    FIELDS,
    Row,
    build_row,
    load_report,
    reason_for_null,
    row_from,
    row_problems,
    save_report,
)
from qat.system.errors import UserError

STORED = Path(__file__).parents[2] / "docs" / "results"
OTHER = ("seed_tables_errors.json", "seed_tables_runs.json")  # no rows
NAMES = {"run": "r", "model": "m", "method": "ptq", "dataset": "d", "split": "s", "precision": "integer"}
DESIGN = """run, suite_row, model, method, weight_bits, activation_bits, rounding, seed,
dataset, split, utterances, reference_words, wer, wer_ci95, cer, substitutions, deletions, insertions,
delta_wer_vs_float, engine, provider, precision, device, threads, cpu_vnni, batch_size, latency_ms, rtf,
warmup, repeats, float_latency_ms, speedup, size_mb, float_size_mb, peak_memory_mb, coverage, integer_nodes,
float_compute_nodes, parity, config_sha256, checkpoint_sha256, git_commit, versions, command, started_at,
duration_s"""


def test_a_row_has_exactly_the_designed_fields() -> None:
    assert set(FIELDS) == {
        *DESIGN.replace("\n", " ").replace(" ", "").split(","),
        "notes",
        "wer_by_duration",
        "decoding",
        "parts_ms",
        "texts_in_train",
    }


def test_full_rows_are_valid(row: Row, float_row: Row) -> None:
    assert list(row_problems(row.to_dict())) == [] and list(row_problems(float_row.to_dict())) == []
    assert row.notes == []


def test_missing_fields_become_null_with_a_note() -> None:
    row = build_row(**NAMES, parity={"wer_fake": 3.0}, notes=["latency_ms: the timer was off"])
    assert row.latency_ms is None and reason_for_null(row.notes, "latency_ms") == "the timer was off"
    assert reason_for_null(row.notes, "size_mb") == "not measured"
    assert row.parity is not None and row.parity.wer_integer is None
    assert reason_for_null(row.notes, "parity.wer_integer") == "not measured"
    assert row.suite_row is None and reason_for_null(row.notes, "suite_row") == "", "null means: no suite"
    assert row.weight_bits is None and reason_for_null(row.notes, "weight_bits") == "", "null means: float"


def test_values_become_builtins(tmp_path: Path) -> None:
    row = build_row(**NAMES, size_mb=np.float32(1.5), utterances=np.int64(3), wer_ci95=(1.0, 2.0))
    assert type(row.size_mb) is float and type(row.utterances) is int and row.wer_ci95 == (1.0, 2.0)
    assert json.loads(json.dumps(row.to_dict()))["wer_ci95"] == [1.0, 2.0]


def test_unknown_field_is_named() -> None:
    with pytest.raises(UserError, match="unknown field 'latency'"):
        build_row(**NAMES, latency=3)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"wer": 99.0}, "wer is 99.0, but its error counts give 12.5"),
        ({"wer": "3.2"}, "wer is '3.2', must be float"),
        ({"size_mb": float("nan")}, "size_mb is nan, must be a finite number"),
        ({"size_mb": -1.0}, "size_mb is -1.0"),
        ({"utterances": True}, "utterances is True, must be int"),
        ({"weight_bits": 1}, r"weight_bits is 1, must be a finite number in \[2, 8\]"),
        ({"weight_bits": "4/9"}, "weight_bits is '4/9'"),
        ({"rounding": "up"}, "rounding is 'up', must be one of nearest, stochastic"),
        ({"precision": None}, "precision may not be null"),
        ({"wer_ci95": [5.0, 4.0]}, r"wer_ci95 is \[5.0, 4.0\], must be \[low, high\]"),
        ({"latency_ms": {"p50": 9.0, "p95": 3.0}}, "p50 9.0 is greater than p95 3.0"),
        ({"latency_ms": {"p50": 1.0}}, "latency_ms.p95 is missing"),
        ({"coverage": None}, "coverage is null and no note says why"),
        ({"parity": {"max_abs_logit": 0.1, "argmax_disagreement": 2.0, "wer_fake": 1, "wer_integer": 1}},
         "parity.argmax_disagreement is 2.0"),
        ({"delta_wer_vs_float": {"mean": 1.0, "ci95": [0, 1], "p_value": 0.1, "p": 1}},
         "unknown field 'delta_wer_vs_float.p'"),
        ({"config_sha256": "abc"}, "config_sha256 is 'abc', must match"),
        ({"started_at": "yesterday"}, "started_at is 'yesterday'"),
        ({"wer_by_duration": {"long": {}}}, "unknown bucket 'long'"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"notes": None}, "notes may not be null"),
    ],
)  # fmt: skip
def test_each_fault_is_named_in_one_line(row: Row, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        row_from(row.to_dict() | changes)
    assert "\n" not in str(caught.value) and "run 'demo', split 'test_seen'" in str(caught.value)


def test_a_missing_key_is_a_fault(row: Row) -> None:
    values = row.to_dict()
    del values["rtf"]
    assert "field 'rtf' is missing" in list(row_problems(values))


def test_mixed_bits_and_no_bits_are_allowed(row: Row) -> None:
    mixed = row_from(row.to_dict() | {"weight_bits": "4/8", "activation_bits": None})
    assert (mixed.weight_bits, mixed.activation_bits) == ("4/8", None)


def test_report_survives_the_disk(tmp_path: Path, row: Row, float_row: Row) -> None:
    path = tmp_path / "report.json"
    save_report(path, [float_row, row])
    assert load_report(path) == [float_row, row]


def test_an_invalid_row_is_not_written(tmp_path: Path, row: Row) -> None:
    path = tmp_path / "report.json"
    save_report(path, [row])
    with pytest.raises(UserError, match="must be int"):
        save_report(path, [replace(row, utterances=1.5)])  # type: ignore[arg-type]
    assert load_report(path) == [row]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no report to read"),
        ("{", "not JSON"),
        ("{}", "must be a list of objects"),
        ('[{"run": "x"}]', "is missing"),
    ],
)
def test_unreadable_reports_are_named(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        load_report(path)
    assert str(path) in str(caught.value)


def test_processor_is_found_out_when_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qat.report.row.cpu_has_vnni", lambda: True)
    assert build_row(**NAMES).cpu_vnni is True
    assert build_row(**NAMES, cpu_vnni=False).cpu_vnni is False


@pytest.mark.parametrize(
    "name", sorted(path.name for path in STORED.glob("*.json") if path.name not in OTHER)
)
def test_stored_reports_load_and_are_written_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    save_report(tmp_path / name, load_report(STORED / name))
    assert (tmp_path / name).read_bytes() == (STORED / name).read_bytes()


def test_optional_fields_are_stored_only_where_they_say_something(tmp_path: Path, row: Row) -> None:
    assert not {"decoding", "parts_ms"} & set(row.to_dict()) and row.parity is not None
    parity = replace(row.parity, differing_utterances=0.25)
    full = replace(row, decoding="attention, beam 8, lm 0.5", parts_ms={"encoder": 1.0}, parity=parity)
    save_report(tmp_path / "report.json", [row, full])
    assert load_report(tmp_path / "report.json") == [row, full]
    stored = json.loads((tmp_path / "report.json").read_text())
    assert (
        "differing_utterances" not in stored[0]["parity"]
        and stored[1]["parity"]["differing_utterances"] == 0.25
    )
    with pytest.raises(UserError, match="parity.differing_utterances is 2.0"):
        row_from(full.to_dict() | {"parity": full.to_dict()["parity"] | {"differing_utterances": 2.0}})
