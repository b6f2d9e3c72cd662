"""`evaluate.py transcribe`: text from audio with an exported file or folder; no PyTorch where it is up to date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.audio_file import load_samples
from qat.decoding.options import DecodingOptions
from qat.runs import MODEL_FILE, SPEECHBRAIN_FILE, find_checkpoint, sha256_of_checkpoint
from qat.runtime.attention_session import open_session
from qat.runtime.checkpoint_of import checkpoint_of
from qat.runtime.manifest import is_exported_folder


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

    It belongs to a checkpoint whose digest it names; one that names another, or none, is exported again.

    Raises:
        UserError: there is no such target.
    """
    if is_exported_folder(Path(target)):
        return Path(target)
    checkpoint = find_checkpoint(target)
    digest = sha256_of_checkpoint(checkpoint)
    place = checkpoint.with_name(MODEL_FILE) if checkpoint.name == SPEECHBRAIN_FILE else checkpoint
    folder, file = place.with_suffix(""), place.with_suffix(".onnx")
    for found in (folder, file):
        if checkpoint_of(found) == digest:
            return found
    from qat.models.loading import load_module
    from qat.runtime.attention_export import export

    module = load_module(checkpoint)
    return export(module, folder, "integer" if module.recipe.active else "float", digest).path
