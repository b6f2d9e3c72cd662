"""The runs of a suite: commands, folders, and what decides whether a stored one counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.suite.jobs import clean_folder, jobs_of, last_line, prepare_folder
from qat.suite.spec import ROOT, load_suite
from qat.system.errors import UserError


def test_quick_takes_one_seed_and_small_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    suite = load_suite("seed_tables")
    quick, full = jobs_of(suite, tmp_path, True), jobs_of(suite, tmp_path, False)
    assert len({job.row.id for job in quick}) == len(quick) < len(full)
    assert all("--data.max_test_utterances" in job.command for job in quick)
    assert not any("--data.max_test_utterances" in job.command for job in full)
    assert len({job.sha256 for job in full}) == len(full)  # no two runs are the same


def test_only_selects_rows_by_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    suite = load_suite("seed_tables")
    chosen = jobs_of(suite, tmp_path, False, ["crdnn/adaround*", "wav2vec2/w8a8"])
    assert {job.row.model for job in chosen} == {"crdnn", "wav2vec2"}
    assert all(job.row.name.startswith("adaround") or job.row.id == "wav2vec2/w8a8" for job in chosen)
    assert chosen[0].row.id.startswith("crdnn/adaround") and chosen[-1].row.id == "wav2vec2/w8a8"
    jobs = jobs_of(suite, tmp_path, False, ["*/qat_w8a8", "*/control"])
    seeds = [job.seed for job in jobs]
    assert seeds == [1] * 6 + [2] * 6 + [3] * 6  # every row has a number before any row has its spread
    for flag, first in (
        ("--seed_everything", 1),
        ("--qat.seed", 1),
        ("--data.seed", 0),
    ):  # batches differ too
        given = [int(job.command[job.command.index(flag) + 1]) for job in jobs]
        assert given == [seed - 1 + first for seed in seeds]
    with pytest.raises(UserError, match="must fit a row"):
        jobs_of(suite, tmp_path, False, ["nothing*"])


@pytest.mark.parametrize("kind", ["crdnn"])
def test_another_configuration_or_seed_is_another_run(kind: str, suite_file: Path, tmp_path: Path) -> None:
    """A stored run counts only while everything that decides its result is the same."""
    suite = load_suite(str(suite_file))
    first = jobs_of(suite, tmp_path, False)
    assert [job.sha256 for job in first] == [
        job.sha256 for job in jobs_of(suite, tmp_path / "elsewhere", False)
    ]
    config = suite.configs["mine"]
    config.write_text(config.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    changed = jobs_of(load_suite(str(suite_file)), tmp_path, False)
    assert all(one.sha256 != two.sha256 for one, two in zip(first, changed, strict=True))


@pytest.mark.parametrize("kind", ["crdnn"])
def test_a_killed_run_is_resumed_and_another_one_starts_again(
    kind: str, suite_file: Path, tmp_path: Path
) -> None:
    job = jobs_of(load_suite(str(suite_file)), tmp_path / "runs", False)[0]
    assert prepare_folder(job) == []
    job.folder.mkdir(parents=True)
    (job.folder / "last.ckpt").touch()
    assert prepare_folder(job) == ["--ckpt_path", "last"]
    job.folder.with_suffix(".sha256").write_text("other")
    assert prepare_folder(job) == [] and not job.folder.exists()


def test_what_can_be_made_again_is_removed(tmp_path: Path) -> None:
    for name in ("model.ckpt", "best.ckpt", "model.onnx", "float.onnx", "report.json"):
        (tmp_path / name).touch()
    clean_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.ckpt", "model.onnx", "report.json"}
    for name in ("model", "float", "model_no_lm"):
        (tmp_path / name).mkdir()
        for file in ("encoder.onnx", "manifest.json"):
            (tmp_path / name / file).touch()
    clean_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.ckpt", "model.onnx", "report.json", "model"}


def test_the_error_of_a_log_is_its_error_line(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    for text, line in (("a\nerror: bad bits\nbye\n", "error: bad bits"), ("a\n\nb\n", "b"), ("", "")):
        log.write_text(text)
        assert last_line(log) == line
