"""`evaluate.py report` and what it rebuilds; `transcribe` of the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluate import evaluate
from qat.cli.flags import DEFAULT_CONFIG
from qat.cli.report import config_of
from qat.report.row import load_report
from qat.system.errors import UserError
from train import train


def test_the_configuration_is_the_one_given_the_runs_own_or_the_default(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.ckpt"
    assert config_of(checkpoint, None) == DEFAULT_CONFIG
    (tmp_path / "config.yaml").touch()
    assert config_of(checkpoint, None) == tmp_path / "config.yaml"
    assert config_of(checkpoint, Path("mine.yaml")) == Path("mine.yaml")


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
