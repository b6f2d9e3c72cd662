"""`evaluate.py transcribe`: text from audio with an exported file or folder; no PyTorch where it is up to date."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from datamodules.audio_blocks import raw_blocks, sample_blocks
from datamodules.audio_file import load_samples
from qat.decoding.options import DecodingOptions
from qat.decoding.windows import WINDOW_S, WindowedRecogniser, check_window
from qat.runs import MODEL_FILE, SPEECHBRAIN_FILE, find_checkpoint, sha256_of_checkpoint
from qat.runtime.attention_session import open_session
from qat.runtime.checkpoint_of import checkpoint_of, said_by
from qat.runtime.formats import DEFAULT_RUNNER, FORMAT_KEY, FileFormat, Precision, Runner
from qat.runtime.manifest import is_exported_folder


def transcribe(
    target: str,
    files: Sequence[Path],
    threads: int,
    decoding: DecodingOptions | None = None,
    window_s: int = WINDOW_S,
    runner: Runner = DEFAULT_RUNNER,
) -> None:
    """Print `FILE<TAB>text` for each audio file, read with the exported integer model (exported when missing).

    Args:
        target: run, checkpoint or exported folder.
        files: audio.
        threads: of the engine.
        decoding: what to change of the model's own search.
        window_s: seconds; longer recordings are read in overlapping windows of this length, from disk as they come.
        runner: engine and provider.

    Raises:
        UserError: a file cannot be read (before anything is built), or see `exported_model` and `open_session`.
    """
    check_window(window_s)
    long = [is_longer(file, window_s) for file in files]  # bad audio is reported before anything is built
    session = open_session(exported_model(target, runner), threads, decoding, runner)
    for file, in_windows in zip(files, long, strict=True):
        if in_windows:
            with Progress(file) as progress:
                text = WindowedRecogniser(session, window_s, progress).transcribe_blocks(sample_blocks(file))
        else:
            text = session.transcribe(load_samples(file))
        print(f"{file}\t{text}", flush=True)


def is_longer(file: Path, window_s: int) -> bool:
    """Read a whole recording, of which nothing is kept, and say whether it is longer than a window.

    Raises:
        UserError: see `raw_blocks`.
    """
    return sum(len(samples) / rate for samples, rate in raw_blocks(file)) > window_s


class Progress:
    """How much of a recording was read, on a terminal alone: one line of stderr, gone at the end.

    Args:
        file: the recording.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.shows = file, sys.stderr.isatty()

    def __call__(self, seconds: float) -> None:
        """Show that this much was read."""
        if self.shows:
            print(f"\r{self.file}: {seconds / 60:.1f} min read", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.shows:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def exported_model(target: str, runner: Runner = DEFAULT_RUNNER) -> Path:
    """The file or folder that a target was, or now is, exported to; a float checkpoint has a float one.

    Any runner but ONNX Runtime on the CPU has a file of standard operators, `NAME.qdq.onnx` where `NAME.onnx` is none
    (of an attention model the folder `NAME.qdq`).
    A file belongs to a checkpoint whose digest it names; one that names another, or none, is exported again.

    Raises:
        UserError: there is no such target.
    """
    if is_exported_folder(Path(target)):
        return Path(target)
    checkpoint = find_checkpoint(target)
    digest = sha256_of_checkpoint(checkpoint)
    place = checkpoint.with_name(MODEL_FILE) if checkpoint.name == SPEECHBRAIN_FILE else checkpoint
    folder, portable = place.with_suffix(""), not runner.is_default
    names = (folder.name, f"{folder.name}.qdq", f"{folder.name}.onnx", f"{folder.name}.qdq.onnx")
    for found in map(place.with_name, names):
        if checkpoint_of(found) == digest and fits(found, portable):
            return found
    from qat.models.loading import load_module
    from qat.runtime.attention_export import export

    module = load_module(checkpoint)
    portable |= module.recipe.target != "onnxruntime"
    name = f"{folder.name}.qdq" if portable else folder.name
    file_format: FileFormat = "qdq" if portable else "onnxruntime"
    precision: Precision = "integer" if module.recipe.active else "float"
    return export(module, folder.with_name(name), precision, digest, file_format).path


def fits(exported: Path, portable: bool) -> bool:
    """Whether a file may be read: one of standard operators alone where that is asked for; else any but one that
    stands beside the default one, unless its model's runtime reads no other."""
    said = said_by(exported)
    if portable:
        return said.get(FORMAT_KEY) == "qdq"
    recipe = said.get("recipe") or {}
    target = (json.loads(recipe) if isinstance(recipe, str) else recipe).get("target", "onnxruntime")
    return ".qdq" not in exported.suffixes or target != "onnxruntime"
