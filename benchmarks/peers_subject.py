"""What `benchmarks.peers` quantizes and measures with: a float model, its file, the speech, and the scorer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray

from benchmarks.result_file import ROOT
from datamodules.base import SpeechDataModule
from datamodules.mini_corpus import MiniDataModule
from qat.evaluation.error_rates import UtteranceErrors, error_fields, total
from qat.evaluation.measure import length_mix
from qat.evaluation.parity import signal_of
from qat.evaluation.transcripts import Split, read_splits
from qat.layers.swap import weighted_layers
from qat.models.ctc import CTCModule
from qat.models.loading import load_module
from qat.runtime.export import export_onnx
from qat.runtime.session import Session
from qat.search.cost import REST, owner_of
from qat.system.files import write_text

CALIBRATED_ON, TIMED = 256, 20  # utterances: of training, and of the test sets
COMPUTE = ("Conv", "MatMul", "Gemm", "LSTM")  # nodes that hold a layer's weights
EXTRACTOR = "feature_extractor"
Signal = NDArray[Any]


class Transcriber(Protocol):
    """Whatever makes text of samples."""

    def transcribe(self, signal: Signal) -> str:
        """Samples `(S,)` -> text."""


@dataclass(frozen=True)
class Built:
    """What a quantizer made.

    Attributes:
        recogniser: transcribes.
        file: that holds it, or folder; None where there is none.
        engine: that times the file: `onnxruntime`, `openvino`, or empty for none.
    """

    recogniser: Transcriber
    file: Path | None = None
    engine: str = ""


@dataclass(frozen=True)
class Subject:
    """A float model and the speech that it is measured on.

    Args:
        kind: `crdnn` or `wav2vec2`.
        checkpoint: of the float model.
        data: train calibrates, all test sets measure.
        folder: for files.
        rules: of the model's configuration, for the recipes of ours.
        calibrated_on: training utterances.
        timed: test utterances whose transcription is timed.
    """

    kind: str
    checkpoint: Path
    data: SpeechDataModule
    folder: Path
    rules: Sequence[dict[str, Any]] = ()
    calibrated_on: int = CALIBRATED_ON
    timed: int = TIMED

    @cached_property
    def module(self) -> CTCModule:
        """The float model, in eval mode; not to be changed."""
        return load_module(self.checkpoint).eval()

    @cached_property
    def layers(self) -> list[str]:
        """Names of all layers with weights."""
        return [name for name, _ in weighted_layers(self.module)]

    @cached_property
    def extractor(self) -> list[str]:
        """Those of them in a Wav2Vec2's feature extractor; of other models none."""
        globs = self.module.groups.get(EXTRACTOR, ())
        return [name for name in self.layers if any(fnmatchcase(name, glob) for glob in globs)]

    @cached_property
    def float_file(self) -> Path:
        """The float model's ONNX file; made where it is not there."""
        path = self.folder / f"{self.kind}-float.onnx"
        if not path.is_file():
            # of operators that all quantizers know
            export_onnx(self.module, path, "float", file_format="qdq")
        return path

    @cached_property
    def float_session(self) -> Session:
        """The float file, opened."""
        return Session(self.float_file, 1)

    def nodes(self, keep_extractor_float: bool = False, kinds: Sequence[str] = COMPUTE) -> list[str]:
        """Names of the float file's nodes that hold layers' weights: features, attention and norms are left out."""
        layers = [name for name in self.layers if not (keep_extractor_float and name in self.extractor)]
        graph = onnx.load(str(self.float_file)).graph
        return [
            node.name for node in graph.node if node.op_type in kinds and owner_of(node.name, layers) != REST
        ]

    @cached_property
    def splits(self) -> list[Split]:
        """All test sets."""
        return read_splits(self.data)

    @cached_property
    def test_signals(self) -> dict[str, list[Signal]]:
        """Test set -> samples `(S,)` of its utterances, in order."""
        return {split.name: self.read(split.utterances) for split in self.splits}

    @cached_property
    def calibrating(self) -> list[Signal]:
        """Samples of the training utterances that calibrate, the same for all."""
        return self.read(self.data.calibration_utterances(self.calibrated_on, seed=0))

    @cached_property
    def timed_signals(self) -> list[Signal]:
        """Samples of test utterances over the mix of lengths, and one more that warms up."""
        found = self.read(length_mix(self.splits, self.timed))
        return [*found, np.concatenate([found[-1], found[0][:777]])]  # of a length of its own

    def read(self, utterances: Sequence[Any]) -> list[Signal]:
        """Samples of some utterances."""
        return [signal_of(batch) for batch in self.data.loader(utterances)]

    def transcribe(self, recogniser: Transcriber) -> dict[str, list[str]]:
        """Test set -> texts."""
        return {
            name: [recogniser.transcribe(signal) for signal in signals]
            for name, signals in self.test_signals.items()
        }

    @cached_property
    def baseline(self) -> dict[str, list[str]]:
        """The float file's texts; kept beside it."""
        path = self.float_file.with_suffix(".json")
        if not path.is_file():
            write_text(path, json.dumps(self.transcribe(self.float_session)))
        return json.loads(path.read_text())

    def errors(self, texts: Mapping[str, Sequence[str]]) -> dict[str, list[UtteranceErrors]]:
        """Test set -> errors of its utterances."""
        return {split.name: split.errors(texts[split.name]) for split in self.splits}

    def score(self, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Error rates over all test sets together and in each, with the paired bootstrap against the float file."""
        found, base = self.errors(texts), self.errors(self.baseline)
        whole = compared(
            [item for name in found for item in found[name]], [item for name in base for item in base[name]]
        )
        return {**whole, "splits": {name: compared(found[name], base[name]) for name in found}}


def compared(found: Sequence[UtteranceErrors], base: Sequence[UtteranceErrors]) -> dict[str, Any]:
    """WER (percent) of both sides, and the difference in points with its interval and p."""
    fields = error_fields(found, 0, base)
    difference = fields["delta_wer_vs_float"] or {}
    return {
        **{name: fields[name] for name in ("utterances", "reference_words", "wer")},
        **{name: fields[name] for name in ("substitutions", "deletions", "insertions")},
        "float_wer": total(base).wer,
        "delta": difference.get("mean"),
        "ci95": difference.get("ci95"),
        "p_value": difference.get("p_value"),
    }


def shipped(kind: str, folder: Path, quick: bool = False) -> Subject:
    """A shipped model on the embedded corpus.

    Args:
        kind: `crdnn` or `wav2vec2`.
        folder: for files.
        quick: few utterances.
    """
    config = yaml.safe_load((ROOT / "configs" / f"mini_{kind}.yaml").read_text())
    rules = (config.get("qat") or {}).get("rules") or []
    checkpoint = ROOT / "checkpoints" / f"mini_{kind}" / "model.ckpt"
    if quick:
        data = MiniDataModule(max_train_utterances=64, max_test_utterances=4)
        return Subject(kind, checkpoint, data, folder, rules, calibrated_on=8, timed=3)
    return Subject(kind, checkpoint, MiniDataModule(), folder, rules)
