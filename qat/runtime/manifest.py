"""What an exported folder says of itself, read and checked: needs the standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.decoding.options import SearchSettings
from qat.system.errors import UserError
from qat.system.files import sha256_file

FORMAT_VERSION = 1
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.model"
ENCODER, DECODER, LANGUAGE_MODEL = "encoder.onnx", "decoder_step.onnx", "lm_step.onnx"
CHECKPOINT_KEY = (
    "checkpoint_sha256"  # of what an exported file says of itself: the checkpoint that it was made from
)
FRAME_KEY = "frame_samples"  # likewise: samples from one frame of logits to the next
AGAIN = "export the model again"


@dataclass(frozen=True)
class Manifest:
    """The manifest of a folder whose files are what it says.

    Attributes:
        folder: it lies in.
        settings: of the search that goes with the model.
        method: of decoding that goes with the model.
        sample_rate: Hz.
        vocabulary_size: V.
        has_language_model: whether there is one to weigh.
        files: names.
        values: everything that it says.
    """

    folder: Path
    settings: SearchSettings
    method: str
    sample_rate: int
    vocabulary_size: int
    has_language_model: bool
    files: tuple[str, ...]
    values: dict[str, Any]


def is_exported_folder(path: Path) -> bool:
    """Whether a path is a folder that `export_folder` wrote."""
    return (path / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder and check every file that it names.

    Raises:
        UserError: there is none, it is of another format, or a file is missing or changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: must hold {MANIFEST}, as an exported folder does; {AGAIN}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(f"{path}: format_version {version!r}, must be {FORMAT_VERSION}; {AGAIN}")
        found = Manifest(
            folder=folder,
            settings=SearchSettings.from_dict(values["search"]),
            method=str(values["method"]),
            sample_rate=int(values["sample_rate"]),
            vocabulary_size=int(values["vocabulary_size"]),
            has_language_model=bool(values["has_language_model"]),
            files=tuple(values["files"]),
            values=values,
        )
        for name, expected in values["files"].items():
            check_file(folder / name, expected["bytes"], expected["sha256"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: must be a manifest of ours ({type(error).__name__}: {error}); {AGAIN}"
        ) from None
    return found


def check_file(path: Path, size: int, sha256: str) -> None:
    """Compare a file with what the manifest says of it.

    Raises:
        UserError: it is missing or differs.
    """
    if not path.is_file():
        raise UserError(f"{path}: must be there, {MANIFEST} beside it names it; {AGAIN}")
    if path.stat().st_size != size or sha256_file(path) != sha256:
        raise UserError(f"{path}: must be the file that {MANIFEST} names, and its contents differ; {AGAIN}")
