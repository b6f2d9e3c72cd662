"""The scripts themselves: exit status, one line on stderr, and nothing imported that a command does not use."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cli.stub import write_recogniser
from tests.conftest import ROOT
from tests.report.conftest import Make, make, row  # noqa: F401

HEAVY = ("torch", "lightning", "speechbrain", "transformers")
ASK = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[2:]
status = 0
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    status = end.code
print("imported", status, *sys.modules)
"""


@dataclass(frozen=True)
class Done:
    """What a script left behind."""

    status: int
    modules: set[str]
    output: str
    error: str


def imported_by(script: str, *arguments: str, cwd: Path = ROOT) -> Done:
    """Run a script in a fresh process and ask it what it has imported."""
    command = [sys.executable, "-c", ASK, str(ROOT), str(ROOT / script), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    output, _, found = done.stdout.rpartition("imported ")
    status, *modules = found.split()
    return Done(int(status), set(modules), output, done.stderr)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train.py", ["--qat", "nonsense"]),
        ("evaluate.py", ["report", "no-such-run"]),
        ("evaluate.py", ["frob"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(script: str, arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("script", "arguments", "near"),
    [
        ("train.py", ["-h"], ""),
        ("evaluate.py", ["-h"], ""),
        ("train.py", ["--qat", "stocastic"], "did you mean 'stochastic'?"),
        ("train.py", ["--qat", "stochastic", "--qat.weight_bit", "4"], "did you mean --qat.weight_bits?"),
        ("train.py", ["--trainr.max_steps", "4"], "did you mean --trainer.max_steps?"),
        ("train.py", ["--config", "configs/mini_crdn.yaml"], "did you mean 'configs/mini_crdnn.yaml'?"),
        ("evaluate.py", ["trancribe", "x"], "did you mean 'transcribe'?"),
        ("evaluate.py", ["report", "mini_crdn"], "did you mean 'mini_crdnn'?"),
        ("evaluate.py", ["suite", "seed_tables", "--rendr"], "did you mean --render?"),
    ],
)
def test_help_and_mistakes_import_nothing_heavy(script: str, arguments: list[str], near: str) -> None:
    done = imported_by(script, *arguments)
    assert done.status == (2 if near else 0) and near in done.error
    assert len(done.error.strip().splitlines()) == bool(near)
    assert done.modules.isdisjoint(HEAVY)


def test_transcribing_with_an_exported_file_imports_nothing_heavy(
    tmp_path: Path, tiny_manifests: dict[str, Path]
) -> None:
    (tmp_path / "model.ckpt").touch()
    write_recogniser(tmp_path / "model.onnx", "turn it on", hashlib.sha256().hexdigest())
    audio = tiny_manifests["train"].parent / "train-0.wav"
    done = imported_by("evaluate.py", "transcribe", str(tmp_path), str(audio))
    assert (done.status, done.output) == (0, f"{audio}\tturn it on\n"), done.error
    assert "onnxruntime" in done.modules and done.modules.isdisjoint(HEAVY)


def test_comparing_runs_imports_nothing_heavy(make: Make, tmp_path: Path) -> None:  # noqa: F811
    make("one", [0])
    make("two", [])
    arguments = ["compare", "one", "two", "--out", "side", "--no-wandb"]
    done = imported_by("evaluate.py", *arguments, cwd=tmp_path)
    assert done.status == 0 and (tmp_path / "side" / "comparison.md").is_file(), done.error
    assert done.modules.isdisjoint(HEAVY)


def test_rendering_stored_tables_imports_nothing_heavy(tmp_path: Path) -> None:
    for path in (ROOT / "docs" / "results").glob("seed_tables*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    done = imported_by("evaluate.py", "suite", "seed_tables", "--render", "--out", str(tmp_path))
    assert done.status == 0 and (tmp_path / "RESULTS.md").is_file(), done.error
    assert done.modules.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("kind", "unused"),
    [
        ("crdnn", {"qat.models.wav2vec2", "transformers.modeling_utils", "transformers.models.wav2vec2"}),
        ("wav2vec2", {"qat.models.crdnn", "speechbrain.lobes.models.CRDNN"}),
    ],
)
def test_training_imports_its_own_model_alone(
    kind: str, unused: set[str], tiny: Path, tmp_path: Path
) -> None:
    """Lightning's torchmetrics imports the outer shell of transformers; batches come from SpeechBrain's sampler."""
    content = yaml.safe_load(tiny.read_text())
    content["trainer"] |= {"max_epochs": 0, "num_sanity_val_steps": 0}
    content |= {"evaluation": {"enabled": False}, "wandb": {"enabled": False}}
    tiny.write_text(yaml.safe_dump(content))
    done = imported_by("train.py", "--config", str(tiny), "--run", str(tmp_path / "run"))
    assert done.status == 0, done.error
    assert f"qat.models.{kind}" in done.modules
    assert done.modules.isdisjoint({*unused, "wandb", "onnxscript", "qat.report.build"})
