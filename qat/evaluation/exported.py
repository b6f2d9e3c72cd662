"""The exported file of each model that a report measures; float files come from a cache where they are there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qat.decoding.recogniser import Recogniser
from qat.evaluation.candidates import Candidate
from qat.evaluation.options import EvaluationOptions
from qat.runtime.export import export_onnx
from qat.system.files import replacing, sha256_path
from qat.system.provenance import sources_sha256, versions
from qat.system.ranks import broadcast_from, rank_and_world

OpenRecogniser = Callable[[Path, int], Recogniser]  # exported file, threads


@dataclass(frozen=True)
class ExportedModel:
    """A model beside its file, opened.

    Attributes:
        candidate: the model.
        file: its exported file.
        recogniser: the file with its decoder.
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


def export_candidate(
    candidate: Candidate, folder: Path, options: EvaluationOptions, open_recogniser: OpenRecogniser
) -> ExportedModel:
    """Write the file of a model on the first rank, and open it on all; the folder must be one that all of them see."""
    file = folder / f"{candidate.name}.onnx"
    first = rank_and_world()[0] == 0
    packed = broadcast_from(write_file(candidate, file, options.cache) if first else 0)
    return ExportedModel(candidate, file, open_recogniser(file, options.threads), packed)


def write_file(candidate: Candidate, file: Path, cache: str | None) -> int:
    """Write the model's file; how many of its weights are packed. A float file comes from the cache if it is there."""
    if candidate.module.recipe.active:
        return export_onnx(candidate.module, file, "integer").packed
    if cache is None:
        return export_onnx(candidate.module, file, "float").packed
    made_of = [sha256_path(candidate.checkpoint), *candidate.module.folded, sources_sha256(), str(versions())]
    kept = Path(cache) / f"{hashlib.sha256(' '.join(made_of).encode()).hexdigest()}.onnx"
    if kept.is_file():
        shutil.copyfile(kept, file)
        return 0
    packed = export_onnx(candidate.module, file, "float").packed
    with replacing(kept) as part:
        shutil.copyfile(file, part)
    return packed
