"""How a report is measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from qat.decoding.windows import WINDOW_S, check_window
from qat.runtime.formats import EngineName, ProviderName, Runner
from qat.system.errors import UserError

LEAST = {"threads": 1, "warmup": 0, "repeats": 1, "seed": 0, "worst": 0}


@dataclass(frozen=True)
class EvaluationOptions:
    """How a report is measured.

    Args:
        enabled: measure and write the report at the end of training.
        threads: threads of the engine, for error rates and latency alike.
        warmup: untimed runs before each timing.
        repeats: timed runs of each file over the test set's length mix, at least 20.
        seed: of the bootstrap.
        worst: utterances kept in `worst.json` per split.
        twin: measure the post-training-quantized twin of a fine-tuned model as well.
        cache: folder that keeps float files and their transcripts, by hashes of all that they depend on, as many runs
            share a float start. None exports and transcribes every time.
        variants: measure a model with a language model without it and, where it is quantized, with it in float as well.
        window_s: seconds; longer recordings are read in overlapping windows of this length, joined where it is quiet.
        beams: beams of which a table shows dev's error rate and latency, those up to twice the model's own; none: no
            table.
        engine: that runs float and integer file: onnxruntime, or openvino (extra `openvino`; with --export.format qdq).
        provider: of ONNX Runtime: cpu; or cuda, tensorrt: on an NVIDIA GPU (package onnxruntime-gpu; with
            --export.format qdq).

    Raises:
        UserError: a number below its least value, windows of less than 10 s, or an unknown engine or provider.
    """

    enabled: bool = True
    threads: int = 1
    warmup: int = 3
    repeats: int = 20
    seed: int = 0
    worst: int = 50
    twin: bool = True
    cache: str | None = None
    variants: bool = True
    window_s: int = WINDOW_S
    beams: list[int] = field(default_factory=list)
    engine: EngineName = "onnxruntime"
    provider: ProviderName = "cpu"

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UserError(
                    f"evaluation.{name}: {value}, must be a whole number from {least}; leave it out for the default"
                )
        Runner(self.engine, self.provider)
        check_window(self.window_s)
        if bad := [beam for beam in self.beams if beam < 1]:
            raise UserError(f"evaluation.beams: {bad[0]}, must be whole numbers of 1 or more; leave it out")

    @property
    def runner(self) -> Runner:
        """What runs float and integer file."""
        return Runner(self.engine, self.provider)
