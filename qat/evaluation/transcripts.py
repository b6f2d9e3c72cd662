"""What an exported file makes of the test sets: texts, error counts, parity, nodes and coverage."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import torch

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch
from qat.evaluation.candidates import Candidate
from qat.evaluation.error_rates import UtteranceErrors, count_utterances
from qat.evaluation.parity import compare, together
from qat.layers.coverage import count_macs, coverage, side_in_float
from qat.runtime.export import export_onnx
from qat.runtime.graph import count_nodes, optimised_graph
from qat.runtime.session import Session
from qat.system.files import replacing, sha256_file, sha256_path, write_text
from qat.system.provenance import sources_sha256, versions
from qat.system.ranks import broadcast_from, gather_from_all, interleaved, rank_and_world

if TYPE_CHECKING:
    from qat.evaluation.options import EvaluationOptions


@dataclass
class Heard:
    """What one exported file made of the test sets."""

    candidate: Candidate
    file: Path
    nodes: Mapping[str, Any]
    coverage: dict[str, Any]
    packed: int = 0
    utterances: dict[str, list[UtteranceErrors]] = field(default_factory=dict)
    parity: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def is_integer(self) -> bool:
        """Whether the file computes on integers."""
        return self.candidate.module.recipe.active


def listen(candidate: Candidate, folder: Path, data: SpeechDataModule, options: EvaluationOptions) -> Heard:
    """Export a model and read every test split with the file; for a quantized one, check parity as well.

    Ranks share the utterances; the folder must be one that all of them see.
    """
    module = candidate.module
    file = folder / f"{candidate.name}.onnx"
    first = rank_and_world()[0] == 0
    packed = broadcast_from(export(candidate, file, options.cache) if first else 0)
    session = Session(file, threads=options.threads)
    signal, lengths = torch.zeros(1, 64_000), torch.tensor([64_000])
    shares = coverage(module, count_macs(module, lambda: module(signal, lengths)))
    reasons = dict(module.swap_report.skipped)
    shares["skipped"] = [
        [name, reasons.get(name) or side_in_float(module.get_submodule(name)) or "the recipe is off"]
        for name in shares["skipped"]
    ]
    heard = Heard(candidate, file, count_nodes(optimised_graph(file)).to_dict(), shares, packed)
    for split in data.test_splits:
        utterances = data.utterances(split)
        if first:
            print(f"reading {split} ({len(utterances)} utterances) with {file}", flush=True)
        if module.recipe.active:
            parity = together(gather_from_all(compare(module, session, data.loader(utterances, shard=True))))
            heard.parity[split], texts = parity.to_dict(), parity.integer
        else:
            texts = read_float(file, session, split, data, options)
        heard.utterances[split] = count_utterances(
            [item.id for item in utterances],
            [item.text for item in utterances],
            texts,
            [item.duration_s for item in utterances],
        )
    return heard


def export(candidate: Candidate, file: Path, cache: str | None) -> int:
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
    written = export_onnx(candidate.module, file, "float").packed
    with replacing(kept) as part:
        shutil.copyfile(file, part)
    return written


def read_float(
    file: Path, session: Session, split: str, data: SpeechDataModule, options: EvaluationOptions
) -> list[str]:
    """Texts of a split by a float file, from the cache where the very same file has read the very same split."""
    kept: Path | None = None
    if options.cache is not None:
        key = f"{sha256_file(file)} {data.split_fingerprint(split)} {ort.__version__} {options.threads}"
        kept = Path(options.cache) / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        stored = broadcast_from(kept.read_text() if kept.is_file() else None)
        if stored is not None:
            return json.loads(stored)
    own = data.loader(data.utterances(split), shard=True)
    texts = interleaved(gather_from_all([session.transcribe(signal_of(batch)) for batch in own]))
    if kept is not None and rank_and_world()[0] == 0:
        write_text(kept, json.dumps(texts))
    return texts


def signal_of(batch: Batch) -> np.ndarray:
    """Samples `(S,)` of a batch of one utterance."""
    return batch.signal[0, : int(batch.lengths[0])].numpy()


def texts_of(heard: Sequence[Heard]) -> dict[str, Any]:
    """What every file made of every utterance, for later comparisons and significance tests; builtins.

    `splits`: split -> `ids`, `references`, `words` (reference words), in order. `files`: stem of the file -> split ->
    `hypotheses`, `errors` (word errors), in the same order.
    """
    splits = {
        split: {
            "ids": [item.id for item in utterances],
            "references": [item.reference for item in utterances],
            "words": [item.counts.reference_words for item in utterances],
        }
        for split, utterances in heard[0].utterances.items()
    }
    files = {
        item.candidate.name: {
            split: {
                "hypotheses": [utterance.hypothesis for utterance in utterances],
                "errors": [utterance.counts.errors for utterance in utterances],
            }
            for split, utterances in item.utterances.items()
        }
        for item in heard
    }
    return {"splits": splits, "files": files}
