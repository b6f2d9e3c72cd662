"""What was measured of one model, as plain data: report rows are a pure function of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qat.decoding.windows import WINDOW_S
from qat.evaluation.error_rates import UtteranceErrors

Bits = int | str | None


@dataclass(frozen=True)
class Timing:
    """Speed of one file, and of the float file that it took turns with.

    Attributes:
        engine: name and version.
        provider: of the engine.
        device: processor.
        latency_ms: p50 and p95 of one utterance.
        rtf: real-time factor, processing time over audio time.
        peak_memory_mb: of the process that held the file.
        float_latency_ms: of the float file; None for the float file itself.
        speedup: float p50 over this p50; None for the float file itself.
        parts_ms: part of a transcription -> median; empty where a file is one graph.
    """

    engine: str
    provider: str
    device: str
    latency_ms: Mapping[str, float]
    rtf: float
    peak_memory_mb: float
    float_latency_ms: Mapping[str, float] | None = None
    speedup: float | None = None
    parts_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BeamPoint:
    """What one beam width gives on dev.

    Attributes:
        beam: hypotheses kept.
        utterances: transcribed.
        wer: percent; None without reference words.
        latency_ms: p50 of a transcription, in the process that measures.
    """

    beam: int
    utterances: int
    wer: float | None
    latency_ms: float


@dataclass(frozen=True)
class Nodes:
    """What the optimised graph computes: node name -> operator.

    Attributes:
        integer: on integer weights.
        float_compute: in float with a constant weight.
        float_weights: node of `float_compute` -> name of its weight.
    """

    integer: Mapping[str, str]
    float_compute: Mapping[str, str]
    float_weights: Mapping[str, str]


@dataclass(frozen=True)
class Measurement:
    """All that a report says of one model; builtins and counts, no tensors, no files to open.

    Attributes:
        name: stem of its files: `float`, `ptq`, `control`, `model`.
        model: `CRDNN`.
        method: what was done to it: `float`, `same weights in float`, `float control`, `ptq`, or the run's preset.
        precision: `integer` or `float`, of the arithmetic of the file.
        recipe: the resolved recipe.
        weight_bits: over the quantized layers: a number, or "4/8" when rules mix widths; None for a float model.
        activation_bits: likewise.
        checkpoint_sha256: of the file or folder that the model came from.
        constants_sha256: of all constants of the integer file; "" for a float model.
        size_mb: of the exported file, or of all files of the folder.
        packed: weights of 2 to 4 bits that the file unpacks at load.
        nodes: of the optimised graphs.
        coverage: shares that are quantized, and the layers that are not with their reasons; None for a float model.
        utterances: split -> errors of every utterance, in order.
        parity: split -> distance of the file from its module; empty for a float model and for a variant.
        timing: on the test sets' mix of lengths; None where it was not timed.
        sqnr_db: layer -> signal-to-quantization-noise ratio in dB; empty where it was not wanted.
        reconstruction: what AdaRound and bias correction did to each layer.
        validated_on: `cpu`, or `cuda` where training's dev error rates are of the arithmetic that a GPU had for them.
        decoding: the search in a few words; empty for greedy CTC.
        is_variant: whether it is the run's own model with a part left out or in float.
        beams: what each beam width gives on dev; empty where it was not wanted.
        without_integers: why the runner's nodes are none on integers; empty where they are.
    """

    name: str
    model: str
    method: str
    precision: str
    recipe: Mapping[str, Any]
    weight_bits: Bits
    activation_bits: Bits
    checkpoint_sha256: str
    constants_sha256: str
    size_mb: float
    packed: int
    nodes: Nodes
    coverage: Mapping[str, Any] | None
    utterances: Mapping[str, Sequence[UtteranceErrors]]
    parity: Mapping[str, Mapping[str, float]]
    timing: Timing | None = None
    sqnr_db: Mapping[str, float] = field(default_factory=dict)
    reconstruction: Sequence[Mapping[str, Any]] = ()
    validated_on: str = "cpu"
    decoding: str = ""
    is_variant: bool = False
    beams: Sequence[BeamPoint] = ()
    without_integers: str = ""

    @property
    def is_integer(self) -> bool:
        """Whether the file computes on integers."""
        return self.precision == "integer"


def own_last(measurements: Sequence[Measurement]) -> list[Measurement]:
    """In the order of a report: the run's own model, which is no variant, comes last."""
    own = [item for item in measurements if not item.is_variant][-1]
    return [*(item for item in measurements if item is not own), own]


@dataclass(frozen=True)
class Conditions:
    """What all measurements of one report share.

    Attributes:
        run: name of the run folder.
        dataset: `mini`, `librispeech`, `manifest`.
        seed: of the run.
        bootstrap_seed: of intervals and p values.
        threads: of the engine.
        batch_size: of the timed runs.
        warmup: untimed runs before each timing.
        repeats: timed runs.
        config_sha256: of the run's configuration.
        provenance: commit, versions, command, start and duration.
        window_s: longer utterances were read in windows of this length.
        texts_in_train: test split -> utterances whose text is in train too; empty where train cannot be read.
        trained_on: utterances of a training stream that texts were compared with; None: all of train.
    """

    run: str
    dataset: str
    seed: int
    bootstrap_seed: int
    threads: int
    batch_size: int
    warmup: int
    repeats: int
    config_sha256: str
    provenance: Mapping[str, Any]
    window_s: int = WINDOW_S
    texts_in_train: Mapping[str, int] = field(default_factory=dict)
    trained_on: int | None = None
