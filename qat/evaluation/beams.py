"""Error rate and latency against the width of the beam: a smaller beam may be the better model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.base import SpeechDataModule
from qat.decoding.options import DecodingOptions
from qat.decoding.recogniser import Recogniser
from qat.decoding.windows import WindowedRecogniser
from qat.evaluation.error_rates import count_errors
from qat.evaluation.measurement import BeamPoint
from qat.evaluation.options import EvaluationOptions
from qat.evaluation.parity import signal_of
from qat.runtime.attention_session import open_session

SPLIT = "dev"  # the test sets are not for choosing a beam


def measure_beams(
    file: Path, data: SpeechDataModule, options: EvaluationOptions, decoding: DecodingOptions
) -> list[BeamPoint]:
    """Transcribe dev at each beam of the options, up to twice the model's own; nothing for a search without a beam.

    Args:
        file: exported file or folder.
        data: has dev.
        options: beams, threads and runner.
        decoding: what else a user has changed of the search.
    """
    own = getattr(open_session(file, options.threads, decoding, options.runner), "settings", None)
    if own is None:
        return []
    beams = [beam for beam in options.beams if beam <= 2 * own.beam]
    utterances = data.utterances(SPLIT)
    print(f"beams {', '.join(map(str, beams))} on {SPLIT} ({len(utterances)} utterances)", flush=True)
    signals = [signal_of(batch) for batch in data.loader(utterances)]
    texts = [item.text for item in utterances]
    return [
        beam_point(beam, WindowedRecogniser(session, options.window_s), signals, texts)
        for beam in beams
        for session in [open_session(file, options.threads, replace(decoding, beam=beam), options.runner)]
    ]


def beam_point(
    beam: int, recogniser: Recogniser, signals: Sequence[NDArray[Any]], texts: Sequence[str]
) -> BeamPoint:
    """Transcribe all signals, timing each."""
    recogniser.transcribe(signals[0])  # warm-up
    seconds, found = [], []
    for signal in signals:
        started = time.perf_counter()
        found.append(recogniser.transcribe(signal))
        seconds.append(time.perf_counter() - started)
    counts = [count_errors(reference, text) for reference, text in zip(texts, found, strict=True)]
    wer = sum(counts[1:], counts[0]).wer
    return BeamPoint(beam, len(signals), wer, 1000 * float(np.median(seconds)))
