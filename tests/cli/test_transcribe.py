"""`evaluate.py transcribe`: one line per file, with an exported file that is made when it is missing or old."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.audio_file import load_samples
from qat.cli.evaluate import decoding_of, parse
from qat.cli.transcribe import Progress, exported_model, transcribe
from qat.decoding.options import DecodingOptions
from qat.decoding.windows import WindowedRecogniser
from qat.models.loading import save_module
from qat.recipe import Recipe
from qat.runtime.attention_session import AttentionSession
from qat.runtime.export import ExportInfo
from qat.runtime.formats import ENGINES, Runner
from qat.runtime.manifest import MANIFEST
from qat.system.errors import UserError
from tests.cli.stub import write_recogniser
from tests.conftest import ROOT, build
from tests.runtime.attention import ExportedAttention
from tests.runtime.conftest import Exported, quantized


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A float CRDNN that is finished."""
    save_module(build("crdnn"), tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Precisions of the files that were exported since."""
    precisions: list[str] = []

    def export(
        module: Any, path: Path, precision: Any, checkpoint_sha256: str, file_format: str
    ) -> ExportInfo:
        precisions.append(precision)
        write_recogniser(path, "turn it on", checkpoint_sha256)
        return ExportInfo(path, precision, 0.0, "", 0)

    monkeypatch.setattr("qat.runtime.attention_export.export_onnx", export)
    return precisions


def test_each_file_is_a_line_with_its_text(
    checkpoint: Path, exports: list[str], tiny_manifests: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tiny_manifests["train"].parent / f"train-{index}.wav" for index in range(2)]
    transcribe(str(checkpoint.parent), files, threads=1)
    assert capsys.readouterr().out == "".join(f"{file}\tturn it on\n" for file in files)


def test_a_file_is_exported_when_it_is_missing_or_of_another_checkpoint_whatever_their_times(
    checkpoint: Path, exports: list[str]
) -> None:
    exported = exported_model(str(checkpoint))
    assert exported == checkpoint.with_suffix(".onnx") and exports == ["float"]
    os.utime(exported, ns=(0, 0))
    assert exported_model(str(checkpoint)) == exported and exports == ["float"], (
        "an old file of this very one"
    )
    save_module(build("crdnn", rnn_layers=1), checkpoint)
    os.utime(checkpoint, ns=(0, 0))
    os.utime(exported)
    assert exported_model(str(checkpoint)) == exported and exports == ["float", "float"], (
        "another, put in place"
    )
    write_recogniser(exported, "one of an earlier version")
    exported_model(str(checkpoint))
    assert exports == ["float"] * 3


def test_a_quantized_model_has_an_integer_file(tmp_path: Path, exports: list[str]) -> None:
    save_module(build("crdnn", Recipe(preset="x")), tmp_path / "model.ckpt")
    exported_model(str(tmp_path / "model.ckpt"))
    assert exports == ["integer"]


def test_another_engine_has_a_portable_file_beside_the_default_one(
    crdnn: Exported,
    tmp_path: Path,
    tiny_manifests: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_module(crdnn.module, tmp_path / "model.ckpt")
    target, audio = str(tmp_path), [tiny_manifests["train"].parent / "train-0.wav"]
    assert exported_model(target, Runner("openvino")) == tmp_path / "model.qdq.onnx"
    assert exported_model(target) == tmp_path / "model.onnx"
    monkeypatch.setattr("qat.runtime.attention_export.export_onnx", None)  # whoever calls it fails
    texts = []
    for engine in ENGINES:
        transcribe(target, audio, threads=1, runner=Runner(engine))
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    (tmp_path / "model.qdq.onnx").replace(tmp_path / "model.onnx")  # a run with --export.format qdq
    assert exported_model(target, Runner("openvino")) == exported_model(target) == tmp_path / "model.onnx"


def test_a_model_for_another_runtime_has_a_portable_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_module(quantized("crdnn", target="openvino"), tmp_path / "model.ckpt")
    assert exported_model(str(tmp_path)) == tmp_path / "model.qdq.onnx"
    monkeypatch.setattr("qat.runtime.attention_export.export_onnx", None)  # whoever calls it fails
    for engine in ENGINES:
        assert exported_model(str(tmp_path), Runner(engine)) == tmp_path / "model.qdq.onnx"


def test_bad_audio_is_reported_before_anything_is_built(
    checkpoint: Path, tmp_path: Path, exports: list[str]
) -> None:
    with pytest.raises(UserError, match=r"absent\.wav"):
        transcribe(str(checkpoint), [tmp_path / "absent.wav"], threads=1)
    assert not exports


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in (
            "torch", "lightning", "speechbrain", "transformers", "onnx", "onnx_ir", "onnxscript", "yaml", "jsonargparse"
        ):
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Blocked())
from evaluate import evaluate
evaluate(sys.argv[1:])
known = {"numpy", "onnxruntime", "soundfile", "sentencepiece"}
print(*sorted({name.partition(".")[0] for name in sys.modules} & known))
"""


def test_an_exported_folder_is_read_without_torch(
    attention: ExportedAttention, tiny_manifests: dict[str, Path]
) -> None:
    file = tiny_manifests["train"].parent / "train-0.wav"
    flags = ["--decoding.beam", "3", "--decoding.lm_weight=0.2", "--decoding.use_eos_threshold", "false"]
    command = ["transcribe", str(attention.integer.path), str(file), *flags]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    options = DecodingOptions(beam=3, lm_weight=0.2, use_eos_threshold=False)
    assert decoding_of(parse(command)) == options
    text = AttentionSession(attention.integer.path, decoding=options).transcribe(load_samples(file))
    assert done.stdout == f"{file}\t{text}\nnumpy onnxruntime sentencepiece soundfile\n"


def test_a_folder_beside_its_checkpoint_is_read_where_it_names_that(
    attention: ExportedAttention, tmp_path: Path
) -> None:
    (tmp_path / "model.ckpt").touch()
    shutil.copytree(attention.integer.path, tmp_path / "model")
    manifest = tmp_path / "model" / MANIFEST
    values = {**json.loads(manifest.read_text()), "checkpoint_sha256": hashlib.sha256().hexdigest()}
    manifest.write_text(json.dumps(values))
    assert exported_model(str(tmp_path)) == tmp_path / "model"
    assert exported_model(str(attention.integer.path)) == attention.integer.path


def test_a_long_file_is_read_in_windows_from_disk(
    attention: ExportedAttention, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "long.wav", attention.integer.path
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(16_000 * 12), 16_000)
    options = DecodingOptions(method="ctc_greedy")
    transcribe(str(folder), [file], 1, options, window_s=10)
    session, signal = AttentionSession(folder, decoding=options), load_samples(file)
    expected = WindowedRecogniser(session, 10).transcribe(signal)
    transcribe(str(folder), [file], 1, options, window_s=12)
    assert capsys.readouterr() == (f"{file}\t{expected}\n{file}\t{session.transcribe(signal)}\n", "")
    assert parse(["transcribe", "x", "y", "--window_s", "12"]).window_s == 12


def test_progress_is_shown_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress(Path("a.wav")) as progress:
        progress(90.0)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(Path("a.wav")) as progress:
        progress(90.0)
    assert capsys.readouterr() == ("", "\ra.wav: 1.5 min read\r\x1b[K")
