"""How a report is measured."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    enabled: bool = True
    threads: int = 1
    warmup: int = 3
    repeats: int = 20
    seed: int = 0
    worst: int = 50
    twin: bool = True
    cache: str | None = None
