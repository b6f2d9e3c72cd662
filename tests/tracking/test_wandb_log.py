import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import wandb

from qat.report.row import Row
from qat.tracking import wandb_log, wandb_mode
from qat.tracking.wandb_log import log_report, summary, wandb_logger, worst_table
from qat.tracking.wandb_mode import choose_mode


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no network: an empty home folder and a server that nobody runs."""
    for name in (
        "WANDB_API_KEY",
        "WANDB_IDENTITY_TOKEN_FILE",
        "WANDB_MODE",
        "NETRC",
        "HTTPS_PROXY",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def worst(count: int) -> dict[str, list[dict[str, object]]]:
    line = {"reference": "x y", "hypothesis": "z", "reference_words": 2, "wer": 100.0, "duration_s": 1.0}
    return {"test_seen": [{"id": f"u{index}", "errors": index, **line} for index in range(count)]}


def test_mode_follows_the_environment_then_the_flag_then_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_mode(None)[0] == "offline" and "no W&B key" in choose_mode(None)[1]
    assert choose_mode(False)[0] == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert "does not answer" in choose_mode(None)[1]
    monkeypatch.setattr(wandb_mode, "server_answers", lambda: True)
    assert choose_mode(None)[0] == "online" and choose_mode(False)[0] == "online"
    assert choose_mode(True)[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert choose_mode(False)[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_mode(False)[0] == "disabled"


def test_a_stored_key_is_found_by_host(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\n  login user\n  password nothing\n")
    assert wandb_mode.has_key()
    (tmp_path / ".netrc").write_text("machine elsewhere\n  login user\n  password nothing\n")
    assert not wandb_mode.has_key()


def test_without_wandb_everything_goes_on(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert wandb_logger(tmp_path, "p") is None
    assert capsys.readouterr().err == "W&B: not used (wandb is not installed); metrics.csv has everything\n"
    log_report(None, [row])


def test_a_failing_server_falls_back_to_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modes = []

    def start(run_dir: Path, project: str, name: str, group: str | None, mode: str) -> None:
        modes.append(mode)
        raise wandb.errors.CommError("server said no\nat length")

    monkeypatch.setattr(wandb_log, "start", start)
    monkeypatch.setattr(wandb_log, "choose_mode", lambda offline: ("online", "a key is stored"))
    assert wandb_logger(tmp_path, "p") is None
    assert modes == ["online", "offline"]
    assert capsys.readouterr().err.count("\n") == 1


def test_summary_keys_name_split_then_field(row: Row, float_row: Row) -> None:
    keys = summary([float_row, row, row | {"split": "test_real"}])
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


def test_a_resumed_run_keeps_its_id_and_gets_the_report(
    tmp_path: Path, row: Row, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    folder = tmp_path / "run"
    ids, summaries = [], []
    for step in (1, 2):
        logger = wandb_logger(folder, "speech-qat", "demo", "group", {"model": {"bits": [4, 8]}})
        assert logger is not None
        run = logger.experiment
        logger.log_metrics({"val/wer": 30.0 - step}, step=step)
        log_report(run, [row], worst(3), {}, [], [])
        ids.append(run.id)
        summaries.append(dict(run.summary))
        assert run.config["model"] == {"bits": [4, 8]} and run.settings.mode == "offline"
        run.finish()
    assert ids[0] == ids[1] == (folder / "wandb_id").read_text().strip()
    assert summaries[0]["test_seen/wer"] == 12.5
    assert len(list((folder / "wandb").glob(f"offline-run-*-{ids[0]}*"))) == 2
    assert list((folder / "wandb").glob("offline-run-*/files/media/table/worst_utterances*.json"))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("W&B:")]
    assert len(said) == 2 and "offline (no W&B key is stored" in said[0]
    assert time.monotonic() - started < 120  # never waits for a network; usually 5 s


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

    from qat.report.figures import draw_wer

    picture = draw_wer(tmp_path / "wer.png", [row])
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    log_report(Run(), [row], figures=[picture], files=[model])  # type: ignore[arg-type,list-item]
    assert list(logged[0]) == ["figures/wer"] and logged[1] == ["model.onnx"]
    log_report(Run(), [row], files=[tmp_path / "gone.onnx"])  # type: ignore[arg-type]
    assert "the report was not logged completely" in capsys.readouterr().err


def test_a_resumed_run_does_not_log_a_row_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows behind the checkpoint were logged before the kill; those that were not come once."""
    rows: list[dict[str, float]] = []
    monkeypatch.setattr(wandb.Run, "log", lambda self, values, **more: rows.append(dict(values)))
    for first, last in ((0, 7), (4, 12)):
        logger = wandb_logger(tmp_path / "run", "speech-qat")
        assert logger is not None
        for step in range(first, last):
            logger.log_metrics({"lr": 0.1}, step=step)
            if step % 4 == 3:
                logger.log_metrics({"val/wer": 9.0, "epoch": step // 4}, step=step)
        logger.experiment.finish()
    steps = [int(row["trainer/global_step"]) for row in rows if "lr" in row]
    assert steps == list(range(12))
    assert [int(row["trainer/global_step"]) for row in rows if "val/wer" in row] == [3, 7, 11]
