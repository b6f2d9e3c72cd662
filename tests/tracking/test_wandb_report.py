"""The report of a run on Weights & Biases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import wandb

from qat.report.figures import draw_wer
from qat.report.row import Row
from qat.tracking.wandb_report import log_report, summary, worst_table


def worst(count: int) -> dict[str, list[dict[str, object]]]:
    line = {"reference": "x y", "hypothesis": "z", "reference_words": 2, "wer": 100.0, "duration_s": 1.0}
    return {"test_seen": [{"id": f"u{index}", "errors": index, **line} for index in range(count)]}


def test_summary_keys_name_split_then_field(row: Row, float_row: Row) -> None:
    keys = summary([float_row, row, replace(row, split="test_real")])
    assert keys["test_seen/wer"] == 12.5 and keys["test_seen/latency_ms/p50"] == 12.0
    assert keys["test_seen/method"] == "deterministic" and keys["test_seen/float/method"] == "float"
    assert keys["test_real/parity/wer_integer"] == 12.5
    assert not any(value is None for value in keys.values())


def test_table_shows_fifty_and_plays_five(tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    soundfile.write(sound, np.zeros(800, np.float32), 16_000)
    table = worst_table(worst(60), {f"u{index}": sound for index in range(60)})
    players = [line[-1] for line in table.data]
    assert len(players) == 50 and table.data[0][:2] == ["test_seen", "u59"]
    assert all(isinstance(item, wandb.Audio) for item in players[:5]) and players[5:] == [None] * 45
    assert worst_table(worst(2), {"u1": tmp_path / "gone.wav"}).data[0][-1] is None


def test_pictures_and_files_are_logged_and_a_bad_one_is_not_fatal(
    tmp_path: Path, row: Row, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[object] = []

    class Run:
        id = "abc"
        summary: dict[str, object] = {}

        def log(self, values: dict[str, object]) -> None:
            logged.append(values)

        def log_artifact(self, artifact: wandb.Artifact) -> None:
            logged.append(sorted(artifact.manifest.entries))

    picture = draw_wer(tmp_path / "wer.png", [row])
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    log_report(Run(), [row], figures=[picture], files=[model])  # type: ignore[arg-type,list-item]
    assert list(logged[0]) == ["figures/wer"] and logged[1] == ["model.onnx"]
    (tmp_path / "float").mkdir()
    for name in ("encoder.onnx", "manifest.json"):
        (tmp_path / "float" / name).touch()
    log_report(Run(), [row], files=[model, tmp_path / "float"])  # type: ignore[arg-type]
    assert logged[2] == ["float/encoder.onnx", "float/manifest.json", "model.onnx"]
    log_report(Run(), [row], files=[tmp_path / "gone.onnx"])  # type: ignore[arg-type]
    assert "the report was not logged completely" in capsys.readouterr().err
