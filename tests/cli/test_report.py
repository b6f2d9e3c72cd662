"""`evaluate.py report` and what it rebuilds; `transcribe` of the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluate import evaluate
from qat.cli.flags import DEFAULT_CONFIG
from qat.cli.report import config_of, report
from qat.evaluation.graphs import exports_in
from qat.evaluation.options import EvaluationOptions
from qat.models.loading import save_module
from qat.report.row import load_report
from qat.runs import read_config, start_of
from qat.system.errors import UserError
from tests.models.attention_models import SHAPE, attention_model
from tests.models.speechbrain_folders import write_attention_folder
from train import train


def test_the_configuration_is_the_one_given_the_runs_own_or_the_default(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.ckpt"
    assert config_of(checkpoint, None) == DEFAULT_CONFIG
    (tmp_path / "config.yaml").touch()
    assert config_of(checkpoint, None) == tmp_path / "config.yaml"
    assert config_of(checkpoint, Path("mine.yaml")) == Path("mine.yaml")


def test_a_folder_of_speechbrain_is_not_measured_by_another_models_configuration(tmp_path: Path) -> None:
    write_attention_folder(tmp_path)
    config = config_of(tmp_path / "hyperparams.yaml", None)
    assert config.name == "speechbrain_attention.yaml" and start_of(read_config(config)) == ""


def test_a_checkpoint_alone_is_not_compared_with_the_default_models_float_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("qat.report.build.report_checkpoint", lambda *found: seen.append(found[3]))
    (tmp_path / "model.ckpt").touch()
    report([str(tmp_path / "model.ckpt")], None, EvaluationOptions())
    report([str(tmp_path / "model.ckpt")], DEFAULT_CONFIG, EvaluationOptions())
    (tmp_path / "config.yaml").write_text(DEFAULT_CONFIG.read_text())
    report([str(tmp_path / "model.ckpt")], None, EvaluationOptions())
    own = start_of(read_config(DEFAULT_CONFIG))
    assert [start_of(settings) for settings in seen] == ["", own, own] and own


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crdnn"], indirect=True)
def test_evaluate_rebuilds_the_report_and_transcribes(
    tiny: Path, tmp_path: Path, tiny_manifests: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(["--config", str(tiny), "--qat", "ptq_mse", "--run", str(run), "--wandb.enabled", "false"])
    before = load_report(run / "report.json")
    assert [row.method for row in before] == ["float", "ptq_mse"] * 2
    (run / "report.json").unlink()
    evaluate(["report", str(run)])
    after = load_report(run / "report.json")
    assert [row.wer for row in after] == [row.wer for row in before]
    line = json.loads(tiny_manifests["test_a"].read_text().splitlines()[0])
    audio = tiny_manifests["test_a"].parent / line["audio"]
    capsys.readouterr()
    evaluate(["transcribe", str(run), str(audio)])
    assert capsys.readouterr().out.startswith(f"{audio}\t")
    with pytest.raises(UserError, match="'no-such-run': must be a checkpoint file or one of the runs here"):
        evaluate(["report", "no-such-run"])
    with pytest.raises(UserError, match=r"absent\.wav"):
        evaluate(["transcribe", str(run), str(tmp_path / "absent.wav")])


def attention_config(folder: Path, manifests: dict[str, Path]) -> Path:
    """A configuration of a tiny attention model on the tiny corpus."""
    save_module(attention_model(folder), folder / "start.ckpt")
    paths = {split: str(manifests[split]) for split in ("train", "dev")}
    data = {**paths, "test": {"test_a": str(manifests["test_a"])}, "max_batch_s": 5.0, "max_unalignable": 1.0}
    config = {
        "seed_everything": 1,
        "model": {
            "class_path": "qat.models.AttentionModule",
            "init_args": {**SHAPE, "init_from": str(folder / "start.ckpt")},
        },
        "data": {"class_path": "datamodules.ManifestDataModule", "init_args": data},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1},
        "qat": {"calibration_utterances": 4},
        "evaluation": {"warmup": 1, "repeats": 2},
    }
    path = folder / "attention.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
def test_an_attention_model_is_reported_with_its_variants_parts_and_beams(
    tmp_path: Path, tiny_manifests: dict[str, Path]
) -> None:
    run, config = tmp_path / "run", str(attention_config(tmp_path, tiny_manifests))
    flags = ["--decoding.beam", "2", "--decoding.max_ratio", "0.3", "--evaluation.beams", "[1, 2, 8]"]
    train(["--config", config, "--qat", "ptq_max", "--run", str(run), "--wandb.enabled", "false", *flags])
    assert read_config(run / "config.yaml")["decoding"] == {"beam": 2, "max_ratio": 0.3}
    rows = load_report(run / "report.json")
    assert [row.method for row in rows] == [
        *("float", "ptq_max, no language model", "ptq_max, language model in float", "ptq_max")
    ]
    assert [row.decoding for row in rows] == [
        f"attention, beam 2, {lm}, max_ratio 0.3" for lm in ("lm 0.5", "no lm", "lm 0.5", "lm 0.5")
    ]
    assert all(row.parts_ms and row.parts_ms["decoder_step"] > 0 and row.speedup != 0 for row in rows)
    own = rows[-1].parity
    assert own is not None and own.differing_utterances is not None and own.wer_fake == own.wer_integer
    assert rows[1].parity is None and rows[1].size_mb is not None and rows[-1].size_mb is not None
    assert rows[1].size_mb < rows[-1].size_mb
    text = (run / "report.md").read_text()
    assert "## Error rate and latency by beam" in text and "\n| 2 | " in text and "\n| 8 | " not in text
    assert {path.name for path in exports_in(run)} == {"float", "model", "model_no_lm", "model_float_lm"}
