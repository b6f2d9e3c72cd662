"""Other quantizers beside ours: rows of a tiny model, and rows that cannot be measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers, peers_run
from benchmarks.peers_cases import BUILDERS, CASES, OURS, PACKAGES, RUNTIME, Case, cases_of
from benchmarks.peers_page import block, line
from benchmarks.peers_run import FAILED, MEASURED, MISSING, measure
from benchmarks.peers_subject import Subject
from datamodules.base import SpeechDataModule
from qat.models.loading import save_module
from tests.conftest import build


@pytest.fixture
def subject(tmp_path: Path, tiny_data: SpeechDataModule) -> Subject:
    """A tiny Wav2Vec2 on the tiny corpus."""
    save_module(build("wav2vec2"), tmp_path / "model.ckpt")
    return Subject("wav2vec2", tmp_path / "model.ckpt", tiny_data, tmp_path, calibrated_on=2, timed=1)


def case_of(peer: str, text: str, kind: str = "wav2vec2") -> Case:
    """The row with this in its setting."""
    return next(case for case in cases_of(kind) if case.peer == peer and text in case.setting)


@pytest.mark.parametrize("setting", ["dynamic", "all layers", "MatMulNBits"])
def test_a_quantizer_of_onnx_runtime_is_measured_from_words_to_speed(setting: str, subject: Subject) -> None:
    row = measure(case_of(RUNTIME, setting), subject, rounds=1)
    assert (row["status"], row["note"], row["utterances"]) == (MEASURED, "", 4)
    assert row["size_mb"] > 0  # of a tiny model, nodes weigh more than weights
    assert row["speed"]["ratio"] > 0 and row["speed"]["runs"] == 1
    assert set(row["splits"]) == set(subject.data.test_splits)
    assert row["versions"]["onnxruntime"] and row["command"].startswith("python -m benchmarks.peers --models")


def test_a_preset_of_ours_is_measured_in_the_same_way(subject: Subject) -> None:
    row = measure(case_of(OURS, "ptq_max"), subject, rounds=1)
    assert (row["status"], row["note"]) == (MEASURED, "")
    assert row["float_wer"] == pytest.approx(row["wer"] - row["delta"])


def test_only_layers_with_weights_are_quantized_and_an_extractor_may_stay_float(subject: Subject) -> None:
    every, kept = set(subject.nodes()), set(subject.nodes(keep_extractor_float=True))
    assert all("/MatMul" in name or "/Conv" in name for name in every)
    assert not [name for name in every if name.endswith("attention/MatMul") or name.startswith("model/")]
    assert len(every - kept) == len(subject.extractor) == 7


@pytest.mark.parametrize("peer", sorted(BUILDERS))
def test_a_missing_package_is_a_row_with_its_reason(
    peer: str, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGES, peer, ("no-such-package",))
    row = measure(next(case for case in CASES if case.peer == peer and "wav2vec2" in case.models), subject)
    assert row["status"] == MISSING and row["note"].startswith(
        "no-such-package is not installed: pip install"
    )
    assert "wer" not in row and line(row)["difference to float"].startswith("not installed: no-such-package")


def test_a_quantizer_that_fails_is_a_row_with_its_reason_in_one_line(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no kernel\nfor this")

    monkeypatch.setattr(peers_run, "measured", fail)
    row = measure(case_of(RUNTIME, "dynamic"), subject)
    assert (row["status"], row["note"]) == (FAILED, "ValueError: no kernel")


def row_of(kind: str, case: Case, **values: Any) -> dict[str, Any]:
    """A measured row."""
    found = {**peers_run.head(case, kind), "status": MEASURED, "note": "", "wer": 5.0, "float_wer": 4.0}
    speed = {"ratio": 2.0, "first_ratio": 0.5}
    found |= {"delta": 1.0, "ci95": [0.5, 1.5], "p_value": 0.01, "size_mb": 1.5, "speed": speed}
    return {**found, **values}


def test_rows_are_stored_as_they_come_and_what_is_stored_is_not_measured_again(tmp_path: Path) -> None:
    path, case = tmp_path / "peers.json", case_of(RUNTIME, "dynamic", "crdnn")
    rows = peers.Rows(path)
    rows.add(row_of("wav2vec2", case_of(RUNTIME, "all layers")))
    rows.add(row_of("crdnn", case))
    rows.add(peers_run.unmeasured(case, "crdnn", FAILED, "out of memory"))  # the measured one stays
    stored = json.loads(path.read_text())["results"]
    assert [(row["model"], row["status"]) for row in stored] == [("crdnn", MEASURED), ("wav2vec2", MEASURED)]
    options = argparse.Namespace(models=["crdnn"], only=["ONNX Runtime"], again=False)
    left = [found for _, found in peers.pending(options, peers.Rows(path))]
    assert left == [found for found in cases_of("crdnn") if found.peer == RUNTIME and found != case]


def test_a_process_that_ends_costs_its_own_row_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = [("crdnn", case) for case in cases_of("crdnn") if case.peer == RUNTIME][:3]

    def some(kind: str, cases: list[Case], _: bool, __: Path, add: Any) -> tuple[int, str]:
        done = [case for case in cases if case != todo[1][1]][: 1 if len(cases) == 3 else None]
        for case in done:
            add(row_of(kind, case))
        return len(done), "its process ended with status -9"

    monkeypatch.setattr(peers, "run_some", some)
    rows = peers.Rows(None)
    peers.run_all(todo, argparse.Namespace(quick=True), rows, tmp_path)
    assert [row["status"] for row in rows.rows.values()] == [MEASURED, FAILED, MEASURED]


def test_a_table_has_what_was_measured_and_says_on_what(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    assert "Not measured yet" in block(path, "crdnn")
    fake = row_of("crdnn", case_of(RUNTIME, "LSTM", "crdnn"), size_mb=None, speed=None)
    peers.Rows(path).add(fake)
    text = block(path, "crdnn")
    assert "| 5.00 | +1.00 [+0.50, +1.50] | 0.0100 |  |  |  |" in text
    assert "float: WER 4.00 %." in text and "VNNI" in text and "onnxruntime" in text


def test_every_row_has_a_name_of_its_own() -> None:
    for kind in ("crdnn", "wav2vec2"):
        names = [case.name for case in cases_of(kind)]
        assert len(set(names)) == len(names)
