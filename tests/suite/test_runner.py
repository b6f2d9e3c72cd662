"""The suite runner: what is run, what is kept, what a restart does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from qat.cli import evaluate as commands
from qat.cli import train as cli
from qat.models.loading import save_module
from qat.report.row import load_report
from qat.suite.jobs import jobs_of, prepare_folder
from qat.suite.runner import Runner
from qat.suite.spec import ROOT, load_suite
from qat.suite.store import Results
from qat.system.errors import UserError
from tests.cli.test_train import ParseOnly
from tests.conftest import TINY_CRDNN, build, write_hugging_face
from tests.datamodules.corpora import write_librispeech


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
    assert "weight_bits: 1 must be 2 to 8" in text  # the failed row says why
    assert "| no loss | mine | PTQ" in text.replace(
        "**", ""
    )  # which of two equal rows is bold hangs on the processor
    assert "3.58 (+0.42) / -" in text and "W3 A8" in text and "W8 A8" in text
    rows = load_report(out / "mine.json")
    assert {row.suite_row for row in rows} == {"mine/float", "mine/w8a8", "mine/w3a8"}
    runs = json.loads((out / "mine_runs.json").read_text())
    assert {key: value["status"] for key, value in runs.items()} == {
        "mine/w8a8/s1": "done",
        "mine/w3a8/s1": "done",
        "mine/broken/s1": "failed",
    }
    assert (
        len(list((tmp_path / "checkpoints" / "suites" / "mine" / "float_cache").glob("*.json"))) == 2
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
        config["data"]["init_args"] |= {"root": str(tmp_path), "num_workers": 0, "max_unalignable": 1.0}
        config["trainer"] |= {"accelerator": "cpu"}
        (tmp_path / f"{model}.yaml").write_text(yaml.safe_dump(config))
        flags.append(f"{model}={tmp_path / model}.yaml")
    rows = ["crdnn/w8a8", "wav2vec2/qat_w3a8"]
    arguments = ["--config", *flags, "--out", str(tmp_path / "out"), "--jobs", "2", "--quick"]
    commands.run(["suite", "seed_tables", *arguments, "--only", *rows])
    stored = load_report(tmp_path / "out" / "seed_tables.json")
    assert {row.suite_row for row in stored} == {*rows, "crdnn/float", "wav2vec2/float"}
    assert {row.split for row in stored} == {"test-clean", "test-other"}
    assert "test-other" in (tmp_path / "out" / "RESULTS.md").read_text()


@pytest.mark.parametrize("kind", ["crdnn"])
def test_what_an_older_version_left_half_made_is_started_again(
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_suite"], "must be one of seed_tables, or a YAML file"),
        (["seed_tables", "--jobs", "0"], "--jobs 0: must be a whole number from 1"),
        (["seed_tables", "--config", "crdnn"], "must be MODEL=FILE"),
        (
            ["seed_tables", "--config", "other=x.yaml"],
            "must be one of the suite's models crdnn, crdnn_attention, wav2vec2",
        ),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        commands.run(["suite", *arguments])


@pytest.mark.parametrize("kind", ["crdnn"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_children_and_then_the_suite_as_ctrl_c_does(
    kind: str, number: int, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(load_suite(str(suite_file)), tmp_path / "runs", False)
    runner = Runner(Results(tmp_path, "mine"), 1)

    def sleep(self: Runner, job: Any, flags: Sequence[str], log: Path) -> int:
        child = subprocess.Popen(["sleep", "60"], text=True)
        self.children.add(child)
        os.kill(os.getpid(), number)
        return child.wait()

    monkeypatch.setattr(Runner, "run_child", sleep)
    handlers = {item: signal.getsignal(item) for item in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="suite: stopped; run it again to resume"):
            runner.run(jobs)
    finally:
        for item, handler in handlers.items():
            signal.signal(item, handler)
    assert [child.returncode for child in runner.children] == [-signal.SIGTERM]


@pytest.mark.parametrize("kind", ["crdnn"])
def test_what_is_not_started_when_it_is_stopped_is_not_run(
    kind: str, suite_file: Path, tmp_path: Path
) -> None:
    job = jobs_of(load_suite(str(suite_file)), tmp_path / "runs", False)[0]
    runner = Runner(Results(tmp_path, "mine"), 1)
    runner.stopping = True
    assert runner.run_job(job) == "mine/w8a8/s1: not started"
    assert not job.folder.exists()


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
