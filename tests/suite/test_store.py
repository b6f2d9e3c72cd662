"""What a suite has measured, on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qat.report.row import Row, save_report
from qat.suite.jobs import jobs_of
from qat.suite.spec import load_suite
from qat.suite.store import Results


@pytest.mark.parametrize("kind", ["crdnn"])
def test_rows_of_other_settings_are_dropped(kind: str, suite_file: Path, tmp_path: Path, row: Row) -> None:
    jobs = jobs_of(load_suite(str(suite_file)), tmp_path, False)
    rows = [replace(row, suite_row=job.row.id, run=job.folder.name) for job in jobs]
    runs = {job.id: {"status": "done", "sha256": job.sha256} for job in jobs}
    runs[jobs[0].id]["sha256"] = "of other flags"
    results = Results(tmp_path, "mine", rows, runs, {job.id: {} for job in jobs})
    assert results.drop_stale(jobs) == 1
    assert jobs[0].id not in results.runs and jobs[0].id not in results.errors
    assert results.rows == rows[1:] and results.done(jobs[1])


@pytest.mark.parametrize("kind", ["crdnn"])
def test_the_float_row_goes_with_the_last_of_its_runs(
    kind: str, suite_file: Path, tmp_path: Path, row: Row
) -> None:
    """Of another float start nothing may stay: the next run brings the new float row."""
    jobs = jobs_of(load_suite(str(suite_file)), tmp_path, False)
    other = replace(row, suite_row="other/float", run="x")
    rows = [other, replace(row, suite_row="mine/float", run=jobs[0].folder.name)]
    rows += [replace(row, suite_row=job.row.id, run=job.folder.name) for job in jobs]
    runs = {job.id: {"status": "done", "sha256": "of another start"} for job in jobs}
    errors: dict[str, dict[str, list[int]]] = {name: {} for name in (*runs, "mine/float", "other/float")}
    results = Results(tmp_path, "mine", rows, runs, errors)
    assert results.drop_stale(jobs) == len(jobs)
    assert results.rows == [other] and results.errors == {"other/float": {}}


@pytest.mark.parametrize("kind", ["crdnn"])
def test_a_finished_run_is_taken_over_with_the_float_row_of_the_first(
    kind: str, suite_file: Path, tmp_path: Path, row: Row, float_row: Row
) -> None:
    results = Results(tmp_path / "out", "mine")
    texts = {
        "splits": {"test_seen": {"words": [8, 8]}},
        "files": {
            name: {"test_seen": {"errors": [count, 1]}} for name, count in (("float", 0), ("model", 1))
        },
    }
    for job in jobs_of(load_suite(str(suite_file)), tmp_path / "runs", False)[:2]:
        job.folder.mkdir(parents=True)
        save_report(job.folder / "report.json", [float_row, replace(row, run=job.folder.name)])
        (job.folder / "utterances.json").write_text(json.dumps(texts))
        (job.folder / "metrics.csv").write_text(
            "step,train/loss,val/wer\n9,1.5,\n9,,12.5\n19,,11.5\n29,,12.0\n"
        )
        assert [item.suite_row for item in results.add(job, 1.5)] == [job.row.id] and results.done(job)
    assert [item.suite_row for item in results.rows] == ["mine/float", "mine/w8a8", "mine/broken"]
    assert results.errors["mine/words"] == {"test_seen": [8, 8]}
    assert results.errors["mine/float"] == {"test_seen": [0, 1]} and results.errors["mine/w8a8/s1"] == {
        "test_seen": [1, 1]
    }
    assert results.runs["mine/w8a8/s1"]["dev_wer"] == 11.5
    (job.folder / "metrics.csv").unlink()
    assert results.add(job, 1.5) and "dev_wer" not in results.runs[job.id]  # nothing was trained
    results.save()
    again = Results.load(tmp_path / "out", "mine")
    assert (again.rows, again.runs, again.errors) == (results.rows, results.runs, results.errors)


@pytest.mark.parametrize("kind", ["crdnn"])
def test_variants_are_left_out_and_another_search_brings_no_float_row(
    kind: str, suite_file: Path, tmp_path: Path, row: Row, float_row: Row
) -> None:
    """A float model that was searched otherwise is not what the other rows are compared with."""
    results = Results(tmp_path / "out", "mine")
    plain, other = jobs_of(load_suite(str(suite_file)), tmp_path / "runs", False)[:2]
    other = replace(other, row=replace(other.row, args=(*other.row.args, "--decoding.lm_weight", "0.0")))
    for job, count in ((other, 7), (plain, 0)):
        job.folder.mkdir(parents=True)
        variant = replace(row, method=f"{row.method}, no language model")
        own = replace(row, run=job.folder.name)
        save_report(job.folder / "report.json", [float_row, variant, own])
        errors = {"float": count, "model_no_lm": 2, "model": 1}
        files = {name: {"test_seen": {"errors": [number, 1]}} for name, number in errors.items()}
        texts = {"splits": {"test_seen": {"words": [8, 8]}}, "files": files}
        (job.folder / "utterances.json").write_text(json.dumps(texts))
        assert [item.method for item in results.add(job, 1.0)] == [row.method]
    assert [item.suite_row for item in results.rows] == [other.row.id, "mine/float", plain.row.id]
    assert results.errors["mine/float"] == {"test_seen": [0, 1]}
    assert results.errors[other.id] == results.errors[plain.id] == {"test_seen": [1, 1]}


@pytest.mark.parametrize("kind", ["crdnn"])
def test_the_same_weights_in_float_are_not_taken_for_the_float_model(
    kind: str, suite_file: Path, tmp_path: Path, row: Row, float_row: Row
) -> None:
    results = Results(tmp_path / "out", "mine")
    job = jobs_of(load_suite(str(suite_file)), tmp_path / "runs", False)[0]
    job.folder.mkdir(parents=True)
    twin = replace(float_row, method="same weights in float")
    save_report(job.folder / "report.json", [twin, replace(row, run=job.folder.name)])
    files = {name: {"test_seen": {"errors": [0, 1]}} for name in ("float", "model")}
    texts = {"splits": {"test_seen": {"words": [8, 8]}}, "files": files}
    (job.folder / "utterances.json").write_text(json.dumps(texts))
    results.add(job, 1.0)
    assert [item.suite_row for item in results.rows] == [job.row.id] and "mine/float" not in results.errors
