"""`evaluate.py transcribe`: text from audio with an exported file; no PyTorch where the file is up to date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.audio_file import load_samples
from qat.runs import find_checkpoint
from qat.runtime.session import Session


def transcribe(target: str, files: Sequence[Path], threads: int) -> None:
    """Print `FILE<TAB>text` for each audio file, read with the exported integer file (exported when missing)."""
    signals = [load_samples(file) for file in files]  # bad audio is reported before anything is built
    session = Session(integer_file(find_checkpoint(target)), threads=threads)
    for file, signal in zip(files, signals, strict=True):
        print(f"{file}\t{session.transcribe(signal)}")


def integer_file(checkpoint: Path) -> Path:
    """The exported file of a checkpoint; a float checkpoint has a float file."""
    path = checkpoint.with_suffix(".onnx")
    if not path.is_file() or path.stat().st_mtime < checkpoint.stat().st_mtime:
        from qat.models.loading import load_module
        from qat.runtime.export import export_onnx

        module = load_module(checkpoint)
        export_onnx(module, path, "integer" if module.recipe.active else "float")
    return path
