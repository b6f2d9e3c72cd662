"""What each model that a report measures is exported to; float ones come from a cache where they are there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qat.decoding.recogniser import Recogniser
from qat.evaluation.candidates import Candidate
from qat.evaluation.options import EvaluationOptions
from qat.runtime.attention_export import export
from qat.runtime.formats import FileFormat
from qat.system.files import replacing, replacing_folder
from qat.system.provenance import sources_sha256, versions
from qat.system.ranks import broadcast_from, rank_and_world

OpenRecogniser = Callable[[Path, int], Recogniser]  # exported file or folder, threads


@dataclass(frozen=True)
class ExportedModel:
    """A model beside what it was exported to, opened.

    Attributes:
        candidate: the model.
        file: its exported file, or folder of several graphs.
        recogniser: the file with its search.
        packed: weights of 2 to 4 bits that the file unpacks at load.
    """

    candidate: Candidate
    file: Path
    recogniser: Recogniser
    packed: int

    @property
    def is_integer(self) -> bool:
        """Whether the file computes on integers."""
        return self.candidate.module.recipe.active

    @property
    def has_parity(self) -> bool:
        """Whether the file is compared with its module: where there is something to compare, and once a model."""
        return self.is_integer and not self.candidate.is_variant

    @property
    def decoding(self) -> str:
        """The search in a few words; empty for greedy CTC."""
        return getattr(self.recogniser, "decoding", "")


def export_candidate(
    candidate: Candidate,
    folder: Path,
    options: EvaluationOptions,
    open_recogniser: OpenRecogniser,
    file_format: FileFormat = "onnxruntime",
) -> ExportedModel:
    """Export a model on the first rank, and open it on all; the folder must be one that all of them see."""
    first = rank_and_world()[0] == 0
    made = (
        write_file(candidate, folder / candidate.name, options.cache, file_format) if first else (folder, 0)
    )
    file, packed = broadcast_from(made)
    return ExportedModel(candidate, file, open_recogniser(file, options.threads), packed)


def write_file(
    candidate: Candidate, place: Path, cache: str | None, file_format: FileFormat = "onnxruntime"
) -> tuple[Path, int]:
    """Export a model; where to, and how many of its weights are packed. A float one may come from the cache.

    Args:
        candidate: the model.
        place: path without a suffix: a model of one graph becomes a file `.onnx`, others a folder.
        cache: folder; None keeps nothing.
        file_format: of the file.
    """
    digest = candidate.sha256
    if candidate.module.recipe.active:
        info = export(candidate.module, place, "integer", digest, file_format)
        return info.path, info.packed
    if cache is None:
        info = export(candidate.module, place, "float", digest, file_format)
        return info.path, info.packed
    made_of = [digest, *candidate.module.folded, sources_sha256(), str(versions())]
    made_of += [candidate.name] if candidate.is_variant else []
    made_of += [] if file_format == "onnxruntime" else [file_format]
    name = hashlib.sha256(" ".join(made_of).encode()).hexdigest()
    for kept in (Path(cache) / f"{name}.onnx", Path(cache) / name):
        if kept.exists():
            copy_export(kept, file := place.with_name(place.name + kept.suffix))
            return file, 0
    info = export(candidate.module, place, "float", digest, file_format)
    copy_export(info.path, Path(cache) / f"{name}{info.path.suffix}", keeps=True)
    return info.path, info.packed


def copy_export(source: Path, target: Path, keeps: bool = False) -> None:
    """Copy an exported file or folder, whole or not at all; with `keeps` a folder that is there by then stays."""
    if source.is_file():
        with replacing(target) as part:
            shutil.copyfile(source, part)
        return
    with replacing_folder(target, keeps) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
