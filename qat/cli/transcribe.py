"""`evaluate.py transcribe`: text from audio with an exported file or folder; no PyTorch where it is up to date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.audio_file import load_samples
from qat.decoding.options import DecodingOptions
from qat.runs import MODEL_FILE, SPEECHBRAIN_FILE, find_checkpoint
from qat.runtime.attention_session import open_session
from qat.runtime.manifest import MANIFEST, is_exported_folder


def transcribe(
    target: str, files: Sequence[Path], threads: int, decoding: DecodingOptions | None = None
) -> None:
    """Print `FILE<TAB>text` for each audio file, read with the exported integer model (exported when missing).

    Args:
        target: run, checkpoint or exported folder.
        files: audio.
        threads: of the engine.
        decoding: what to change of the model's own search.
    """
    signals = [load_samples(file) for file in files]  # bad audio is reported before anything is built
    session = open_session(exported_model(target), threads, decoding)
    for file, signal in zip(files, signals, strict=True):
        print(f"{file}\t{session.transcribe(signal)}")


def exported_model(target: str) -> Path:
    """The file or folder that a target was, or now is, exported to; a float checkpoint has a float one.

    Raises:
        UserError: there is no such target.
    """
    if is_exported_folder(Path(target)):
        return Path(target)
    checkpoint = find_checkpoint(target)
    changed = checkpoint.stat().st_mtime
    place = checkpoint.with_name(MODEL_FILE) if checkpoint.name == SPEECHBRAIN_FILE else checkpoint
    folder, file = place.with_suffix(""), place.with_suffix(".onnx")
    for found, dated in ((folder, folder / MANIFEST), (file, file)):
        if dated.is_file() and dated.stat().st_mtime >= changed:
            return found
    from qat.models.loading import load_module
    from qat.runtime.attention_export import export

    module = load_module(checkpoint)
    return export(module, folder, "integer" if module.recipe.active else "float").path
