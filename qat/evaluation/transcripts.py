"""Transcripts of the test sets: each set is read once, and all models transcribe it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnxruntime as ort

from datamodules.audio_file import TarMember
from datamodules.base import SpeechDataModule
from datamodules.batch import Batch
from datamodules.utterance import Utterance
from qat.decoding.recogniser import Recogniser
from qat.decoding.windows import WINDOW_S, WindowedRecogniser
from qat.evaluation.error_rates import UtteranceErrors, count_utterances
from qat.evaluation.exported import ExportedModel
from qat.evaluation.module_side import module_side
from qat.evaluation.options import EvaluationOptions
from qat.evaluation.parity import Parity, merge_ranks, signal_of
from qat.system.files import sha256_file, sha256_path, write_text
from qat.system.ranks import broadcast_from, gather_from_all, interleaved, rank_and_world


@dataclass(frozen=True)
class Split:
    """One test set.

    Attributes:
        name: of the split.
        utterances: in manifest order.
        fingerprint: hash of ids and texts; audio may be replaced under the same ids, see `audio_sha256`.
    """

    name: str
    utterances: Sequence[Utterance]
    fingerprint: str

    @cached_property
    def audio_sha256(self) -> str:
        """Hex digest of all recordings, as their files hold them."""
        digest = hashlib.sha256()
        for item in self.utterances:
            if isinstance(item.audio, TarMember):
                one = hashlib.sha256(item.audio.read().getvalue()).hexdigest()
            else:
                one = sha256_file(item.audio)
            digest.update(f"{one}\n".encode())
        return digest.hexdigest()

    def longer_than(self, window_s: int) -> int:
        """How many utterances are read in windows."""
        return sum(item.duration_s > window_s for item in self.utterances)

    def errors(self, texts: Sequence[str]) -> list[UtteranceErrors]:
        """Errors of every utterance, given the transcripts in the same order."""
        return count_utterances(
            [item.id for item in self.utterances],
            [item.text for item in self.utterances],
            texts,
            [item.duration_s for item in self.utterances],
        )


@dataclass(frozen=True)
class Transcripts:
    """What one model makes of one test set.

    Attributes:
        utterances: transcript and errors of every utterance, in order.
        parity: distance of the file from its module; None for a float model and for a variant.
    """

    utterances: Sequence[UtteranceErrors]
    parity: Mapping[str, float] | None


def read_splits(data: SpeechDataModule) -> list[Split]:
    """All test sets of a data module."""
    return [
        Split(name, tuple(data.utterances(name)), data.split_fingerprint(name)) for name in data.test_splits
    ]


def transcribe_split(
    models: Sequence[ExportedModel], split: Split, data: SpeechDataModule, options: EvaluationOptions
) -> list[Transcripts]:
    """Transcribe a test set with every model's file; quantized models run beside their files, for parity.

    Ranks share the utterances, and all get the whole result.
    """
    caches = [cache_file(model, split, options) for model in models]
    pending = [
        PendingTranscripts(model, read_cache(cache), options.window_s)
        for model, cache in zip(models, caches, strict=True)
    ]
    if rank_and_world()[0] == 0:
        names = ", ".join(model.file.name for model in models)
        count, long = len(split.utterances), split.longer_than(options.window_s)
        in_windows = f", {long} of them longer than {options.window_s} s, in windows," if long else ""
        print(f"transcribing {split.name} ({count} utterances{in_windows}) with {names}", flush=True)
    open_ones = [item for item in pending if item.stored is None]
    if open_ones:
        for batch in data.loader(split.utterances, shard=True):
            for item in open_ones:
                item.add(batch)
    found = []
    for item, cache in zip(pending, caches, strict=True):
        texts, parity = item.finish()
        if cache is not None and item.stored is None and rank_and_world()[0] == 0:
            write_text(cache, json.dumps(texts))
        found.append(Transcripts(split.errors(texts), parity))
    return found


class PendingTranscripts:
    """One model's transcripts of one test set, while it is read.

    Args:
        model: what transcribes.
        stored: the texts, where they are known already.
        window_s: see `EvaluationOptions`; module and file are read alike.
    """

    def __init__(
        self, model: ExportedModel, stored: list[str] | None = None, window_s: int = WINDOW_S
    ) -> None:
        self.stored = stored
        self.texts: list[str] = []
        self.parity = Parity()
        self.recogniser = WindowedRecogniser(model.recogniser, window_s)
        self.module: Recogniser | None = None
        if model.has_parity:
            module = module_side(model.candidate.module, model.recogniser)
            self.module = WindowedRecogniser(module, window_s)

    def add(self, batch: Batch) -> None:
        """Transcribe a batch of one utterance."""
        if self.module is not None:
            self.parity.add(self.module, self.recogniser, batch)
        else:
            self.texts.append(self.recogniser.transcribe(signal_of(batch)))

    def finish(self) -> tuple[list[str], dict[str, float] | None]:
        """All ranks' texts in order, and the parity of a quantized model."""
        if self.stored is not None:
            return self.stored, None
        if self.module is not None:
            parity = merge_ranks(gather_from_all(self.parity))
            return parity.integer, parity.to_dict()
        return interleaved(gather_from_all(self.texts)), None


def cache_file(model: ExportedModel, split: Split, options: EvaluationOptions) -> Path | None:
    """Where the texts of a float file are kept, for the very same file on the very same split; None keeps nothing."""
    if options.cache is None or model.is_integer:
        return None
    key = f"{sha256_path(model.file)} {split.fingerprint} {split.audio_sha256} {ort.__version__} {options.threads}"
    key += f" windows {options.window_s}" if split.longer_than(options.window_s) else ""
    key += f" {model.decoding}" if model.decoding else ""
    key += f" {options.engine}" if options.engine != "onnxruntime" else ""
    key += f" {options.provider}" if options.provider != "cpu" else ""
    return Path(options.cache) / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def read_cache(path: Path | None) -> list[str] | None:
    """The texts that the first rank finds there, on all ranks."""
    if path is None:
        return None
    stored = broadcast_from(path.read_text() if path.is_file() else None)
    return None if stored is None else json.loads(stored)
