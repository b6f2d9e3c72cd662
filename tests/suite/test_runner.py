"""The suite runner: what is run, what is kept, what a restart does; and the shipped suite itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from qat.cli import evaluate as commands
from qat.cli import train as cli
from qat.cli.flags import ROOT, expand_presets, preset_names
from qat.models.loading import save_module
from qat.recipe import Recipe
from qat.report.row import load_report
from qat.suite.jobs import jobs_of, prepare_folder
from qat.suite.results import figure_files, results_markdown
from qat.suite.runner import Runner
from qat.suite.spec import load_suite, suite_names
from qat.suite.store import Results
from qat.suite.view import View
from qat.system.errors import UserError
from tests.cli.test_train import ParseOnly
from tests.conftest import TINY_CRDNN, build, write_hugging_face
from tests.datamodules.corpora import write_librispeech


@pytest.fixture
def suite_file(tiny: Path, tmp_path: Path) -> Path:
    """One model, two rows that work and one that fails, one table."""
    content = {
        "models": {"mine": str(tiny)},
        "rows": {
            "mine": {
                "w8a8": {"title": "PTQ", "args": "--qat ptq_mse --evaluation.repeats 20"},
                "broken": {"args": "--qat ptq_mse --qat.weight_bits 1"},
                "w3a8": {"title": "PTQ", "args": "--qat ptq_max --qat.weight_bits 3 --evaluation.repeats 20"},
            }
        },
        "tables": [
            {
                "heading": "Table 1",
                "model": "mine",
                "rows": [
                    {"published": "base", "wer": 3.16, "time_s": 1.1, "rows": ["float"]},
                    {"published": "8 bit", "wer": 3.58, "rows": ["w8a8", "w3a8", "broken"]},
                ],
            }
        ],
        "curves": {"nearest": ["w8a8", "w3a8"]},
        "aims": [{"text": "no loss", "rows": ["w8a8", "w3a8"], "kind": "relative", "limit": 0.5}],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav2vec2"])
def test_a_suite_runs_shows_failures_and_restarts_where_it_was(
    kind: str,
    suite_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("qat.suite.jobs.CHECKPOINTS", tmp_path / "checkpoints")
    out = tmp_path / "out"
    arguments = ["suite", str(suite_file), "--out", str(out), "--jobs", "2"]
    with pytest.raises(UserError, match="1 runs failed"):
        commands.run(arguments)
    text = (out / "RESULTS.md").read_text()
    assert "weight_bits: 1 is not allowed" in text  # the failed row says why
    assert "| no loss | mine | PTQ" in text
    assert "3.58 (+0.42) / -" in text and "W3 A8" in text and "W8 A8" in text
    rows = load_report(out / "mine.json")
    assert {row["suite_row"] for row in rows} == {"mine/float", "mine/w8a8", "mine/w3a8"}
    runs = json.loads((out / "mine_runs.json").read_text())
    assert {key: value["status"] for key, value in runs.items()} == {
        "mine/w8a8/s1": "done",
        "mine/w3a8/s1": "done",
        "mine/broken/s1": "failed",
    }
    assert (
        len(list((tmp_path / "checkpoints" / "suites" / "mine" / "heard").glob("*.json"))) == 2
    )  # two splits
    capsys.readouterr()
    before = (out / "mine.json").read_text()
    with pytest.raises(UserError, match="1 runs failed"):  # only the failed one is tried again
        commands.run(arguments)
    assert "3 runs, 2 done already" in capsys.readouterr().out
    assert (out / "mine.json").read_text() == before
    stored = json.loads(before)
    stored[-1]["weight_bits"] = "3/8"  # text among numbers, as groups with bits of their own have it
    (out / "mine.json").write_text(json.dumps(stored))
    monkeypatch.setenv("WANDB_MODE", "offline")
    commands.run(["suite", str(suite_file), "--out", str(out), "--render", "--wandb"])
    said = capsys.readouterr()
    assert "3 rows and a summary in group mine" in said.err
    assert len(list((out / "wandb").glob("wandb/offline-run-*"))) == 4
    for picture in ("mine_mine_bits.png", "mine_mine_size.png", "mine_mine_latency.png"):
        assert (out / picture).is_file()


def test_the_shipped_suites_load_and_their_rows_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row's flags are a recipe that train.py takes, and every table finds its rows."""
    monkeypatch.chdir(ROOT)
    assert suite_names() == ["seed_tables"]
    suite = load_suite("seed_tables")
    assert [table.heading.split(":")[0] for table in suite.tables] == [f"Table {n}" for n in range(1, 12)]
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
    for name in ("qat_w8a8", "stochastic_w8a8", "control"):
        for model in suite.configs:
            assert suite.row(f"{model}/{name}").seeds == (1, 2, 3)


@pytest.mark.slow
def test_the_shipped_suite_runs_on_librispeech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published configurations, small; the Wav2Vec2 starts from a Hugging Face folder, which teaches as well."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("qat.suite.jobs.CHECKPOINTS", tmp_path / "checkpoints")
    for speaker, subset in enumerate(("train-clean-100", "dev-clean", "test-clean", "test-other")):
        write_librispeech(tmp_path / "LibriSpeech", subset, [f"{speaker}-1", f"{speaker}-2"])
    save_module(build("crdnn"), tmp_path / "start.ckpt")
    write_hugging_face(tmp_path / "hub")
    flags = []
    for model, arguments in (
        ("crdnn", {**TINY_CRDNN, "init_from": str(tmp_path / "start.ckpt")}),
        ("wav2vec2", {"pretrained": str(tmp_path / "hub")}),
    ):
        config = yaml.safe_load((ROOT / "configs" / f"librispeech_{model}.yaml").read_text())
        config["model"]["init_args"] |= arguments
        config["data"]["init_args"] |= {"root": str(tmp_path), "num_workers": 0}
        config["trainer"] |= {"accelerator": "cpu"}
        (tmp_path / f"{model}.yaml").write_text(yaml.safe_dump(config))
        flags.append(f"{model}={tmp_path / model}.yaml")
    rows = ["crdnn/w8a8", "wav2vec2/qat_w3a8"]
    arguments = ["--config", *flags, "--out", str(tmp_path / "out"), "--jobs", "2", "--quick"]
    commands.run(["suite", "seed_tables", *arguments, "--only", *rows])
    stored = load_report(tmp_path / "out" / "seed_tables.json")
    assert {row["suite_row"] for row in stored} == {*rows, "crdnn/float", "wav2vec2/float"}
    assert {row["split"] for row in stored} == {"test-clean", "test-other"}
    assert "test-other" in (tmp_path / "out" / "RESULTS.md").read_text()


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
    assert seeds == [1] * 4 + [2] * 4 + [3] * 4  # every row has a number before any row has its spread
    for flag, first in (
        ("--seed_everything", 1),
        ("--qat.seed", 1),
        ("--data.seed", 0),
    ):  # batches differ too
        given = [int(job.command[job.command.index(flag) + 1]) for job in jobs]
        assert given == [seed - 1 + first for seed in seeds]
    with pytest.raises(UserError, match="fits no row"):
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
def test_rows_of_other_settings_are_dropped(kind: str, suite_file: Path, tmp_path: Path) -> None:
    jobs = jobs_of(load_suite(str(suite_file)), tmp_path, False)
    rows = [{"suite_row": job.row.id, "run": job.folder.name} for job in jobs]
    runs = {job.id: {"status": "done", "sha256": job.sha256} for job in jobs}
    runs[jobs[0].id]["sha256"] = "of other flags"
    results = Results(tmp_path, "mine", rows, runs, {job.id: {} for job in jobs})  # type: ignore[arg-type]
    assert results.drop_stale(jobs) == 1
    assert jobs[0].id not in results.runs and jobs[0].id not in results.errors
    assert results.rows == rows[1:] and results.done(jobs[1])


@pytest.mark.parametrize("kind", ["crdnn"])
def test_the_float_row_goes_with_the_last_of_its_runs(kind: str, suite_file: Path, tmp_path: Path) -> None:
    """Of another float start nothing may stay: the next run brings the new float row."""
    jobs = jobs_of(load_suite(str(suite_file)), tmp_path, False)
    other = {"suite_row": "other/float", "run": "x"}
    rows = [other, {"suite_row": "mine/float", "run": jobs[0].folder.name}]
    rows += [{"suite_row": job.row.id, "run": job.folder.name} for job in jobs]
    runs = {job.id: {"status": "done", "sha256": "of another start"} for job in jobs}
    errors: dict[str, dict[str, list[int]]] = {name: {} for name in (*runs, "mine/float", "other/float")}
    results = Results(tmp_path, "mine", rows, runs, errors)  # type: ignore[arg-type]
    assert results.drop_stale(jobs) == len(jobs)
    assert results.rows == [other] and results.errors == {"other/float": {}}


@pytest.mark.parametrize("kind", ["crdnn"])
def test_a_killed_run_is_resumed_and_another_one_begins_anew(
    kind: str, suite_file: Path, tmp_path: Path
) -> None:
    job = jobs_of(load_suite(str(suite_file)), tmp_path / "runs", False)[0]
    assert prepare_folder(job) == []
    job.folder.mkdir(parents=True)
    (job.folder / "last.ckpt").touch()
    assert prepare_folder(job) == ["--ckpt_path", "last"]
    job.folder.with_suffix(".sha256").write_text("other")
    assert prepare_folder(job) == [] and not job.folder.exists()


@pytest.mark.parametrize("kind", ["crdnn"])
def test_what_an_older_version_left_half_made_is_begun_anew(
    kind: str, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs_of(load_suite(str(suite_file)), tmp_path / "runs", False)[0]
    prepare_folder(job)
    job.folder.mkdir(parents=True)
    (job.folder / "last.ckpt").touch()
    calls: list[list[str]] = []

    def refuse(self: Runner, job: Any, flags: Sequence[str], log: Path) -> int:
        calls.append(list(flags))
        log.write_text(
            "error: last.ckpt: its recipe is a=1, and this run's is a=2" if flags else "error: other"
        )
        return 2 if flags else 1

    monkeypatch.setattr(Runner, "run_child", refuse)
    line = Runner(Results(tmp_path, "x"), 1).run_job(job)
    assert calls == [["--ckpt_path", "last"], []]
    assert line.endswith("error: other") and not job.folder.exists()


def change(key: str, value: Any) -> Any:
    def act(content: dict[str, Any]) -> None:
        content[key] = value

    return act


@pytest.mark.parametrize("kind", ["crdnn"])
@pytest.mark.parametrize(
    ("act", "message"),
    [
        (change("rows", {}), "rows is missing or empty"),
        (change("models", {"mine": "nowhere.yaml"}), "nowhere.yaml: no such configuration file"),
        (lambda content: content["tables"][0]["rows"][0].update(rows=["typo"]), "no row 'typo' of mine"),
        (lambda content: content["tables"][0].update(model="other"), "unknown model 'other'"),
        (lambda content: content["aims"][0].update(kind="x"), "kind 'x' is not one of insignificant"),
        (lambda content: content["aims"][0].update(rows=["y"]), "no model has a row 'y'"),
        (lambda content: content["aims"][0].update(missed={"typo": "x"}), "unknown model 'typo'"),
        (lambda content: content["rows"]["mine"]["w8a8"].update(seeds=[0]), r"seeds is \[0\]; allowed are"),
    ],
)
def test_a_bad_suite_is_one_line(kind: str, suite_file: Path, act: Any, message: str) -> None:
    content = yaml.safe_load(suite_file.read_text())
    act(content)
    suite_file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError, match=message):
        load_suite(str(suite_file))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_suite"], "neither one of seed_tables nor a YAML file"),
        (["seed_tables", "--jobs", "0"], "allowed are integers from 1"),
        (["seed_tables", "--config", "crdnn"], "must be MODEL=FILE"),
        (["seed_tables", "--config", "other=x.yaml"], "the suite's models are crdnn, wav2vec2"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        commands.run(["suite", *arguments])


@pytest.mark.parametrize("kind", ["crdnn"])
def test_what_is_not_begun_when_it_is_stopped_is_not_run(kind: str, suite_file: Path, tmp_path: Path) -> None:
    job = jobs_of(load_suite(str(suite_file)), tmp_path / "runs", False)[0]
    runner = Runner(Results(tmp_path, "mine"), 1)
    runner.stopping = True
    assert runner.run_job(job) == "mine/w8a8/s1: not begun"
    assert not job.folder.exists()


def test_the_committed_results_are_those_of_the_stored_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    suite = load_suite("seed_tables")
    results = Results.load(ROOT / "docs" / "results", suite.name)
    assert results.rows and (ROOT / "RESULTS.md").is_file()
    text = results_markdown(View(suite, results), ROOT, "python evaluate.py suite seed_tables")
    assert (ROOT / "RESULTS.md").read_text() == text
    assert all(path.is_file() for files in figure_files(View(suite, results)).values() for path in files)


@pytest.mark.slow
def test_every_row_of_the_shipped_suite_is_a_command_that_train_py_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cli, "SpeechCLI", ParseOnly)
    suite = load_suite("seed_tables")
    for job in jobs_of(suite, tmp_path, True):
        parsed = cli.build_cli(job.command[1:]).config
        assert parsed.qat.seed == job.seed and not parsed.evaluation.twin
        assert parsed.model.init_args.init_from == f"checkpoints/mini_{job.row.model}/model.ckpt"
