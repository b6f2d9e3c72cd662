"""The shipped suite on LibriSpeech from the two published SpeechBrain models: small corpus, made folders, hub names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qat.cli import evaluate as commands
from qat.report.row import Row, load_report
from qat.runs import read_config
from qat.suite.spec import ROOT
from tests.datamodules.corpora import write_librispeech
from tests.models.speechbrain_folders import cached_folder_of, write_attention_folder, write_wav2vec2_folder

CONFIGS = {
    "crdnn_attention": ROOT / "configs" / "librispeech_crdnn_attention.yaml",
    "wav2vec2": ROOT / "configs" / "librispeech_wav2vec2_speechbrain.yaml",
}
HUB_NAMES = {
    "crdnn_attention": "speechbrain/asr-crdnn-rnnlm-librispeech",
    "wav2vec2": "speechbrain/asr-wav2vec2-librispeech",
}
ROWS = [f"{model}/stochastic_w8a8" for model in CONFIGS]
PUBLISHED = ("| stochastic | 3.24 ", "| stochastic | 2.69 ")  # of tables 7 and 8


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A small LibriSpeech tree: 4 utterances to train on, 2 of dev-clean, 4 of test-clean."""
    for speaker, (subset, chapters) in enumerate(
        {"train-clean-100": 2, "dev-clean": 1, "test-clean": 2}.items()
    ):
        write_librispeech(
            tmp_path / "LibriSpeech", subset, [f"{speaker}-{number}" for number in range(chapters)]
        )
    return tmp_path / "LibriSpeech"


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made folders in the published layouts where the hub's cache keeps the published models; there is no network."""
    cache = tmp_path / "hub"
    write_attention_folder(cached_folder_of(cache, HUB_NAMES["crdnn_attention"]))
    write_wav2vec2_folder(cached_folder_of(cache, HUB_NAMES["wav2vec2"]), old_weight_norm=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def small(model: str, corpus: Path, folder: Path) -> Path:
    """The shipped configuration of a model with another place of the corpus and the CPU; the rest as it is."""
    config = read_config(CONFIGS[model])
    config["data"]["init_args"] |= {"root": str(corpus), "num_workers": 0, "max_unalignable": 1.0}
    config["trainer"] |= {"accelerator": "cpu"}
    path = folder / f"{model}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def check_row(row: Row) -> None:
    """An integer row of an exported model, or the float row beside it."""
    assert row.split == "test-clean" and row.utterances == 4 and row.wer is not None
    is_float = row.suite_row is not None and row.suite_row.endswith("/float")
    assert row.precision == ("float" if is_float else "integer")
    assert (row.integer_nodes or 0) == 0 if is_float else (row.integer_nodes or 0) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("downloaded")
def test_the_shipped_suite_runs_on_the_published_models(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrated, trained and exported; the attention model is searched with its language model."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("qat.suite.jobs.CHECKPOINTS", tmp_path / "checkpoints")
    files = [f"{model}={small(model, corpus, tmp_path)}" for model in CONFIGS]
    out = tmp_path / "out"
    arguments = ["--config", *files, "--out", str(out), "--quick", "--only", *ROWS]
    commands.run(["suite", "seed_tables", *arguments])
    stored = load_report(out / "seed_tables.json")
    assert {row.suite_row for row in stored} == {*ROWS, *(f"{model}/float" for model in CONFIGS)}
    for row in stored:
        check_row(row)
    lines = (out / "RESULTS.md").read_text().splitlines()
    for start in PUBLISHED:  # filled beside what was published
        assert any(line.startswith(start) and "W8 A8" in line for line in lines), start


@pytest.mark.parametrize("model", CONFIGS)
def test_a_hub_name_without_network_is_one_line_and_makes_no_run_folder(
    model: str, corpus: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    config = small(model, corpus, tmp_path)
    command = [sys.executable, "train.py", "--config", str(config), "--qat", "ptq_mse"]
    done = subprocess.run(
        [*command, "--run", str(tmp_path / "run")], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line != "Seed set to 1"]  # which Lightning says
    assert len(lines) == 1 and "hf download" in lines[0]
    assert lines[0].startswith(f"error: {HUB_NAMES[model]}: must be a folder, or be downloaded")
    assert not (tmp_path / "run").exists()
