"""A process that holds one implementation of the attention model: `python -m benchmarks.attention_worker`.

Driven by `benchmarks.attention`: one JSON object per line on stdin, an answer to each on stdout. Only SpeechBrain's
side imports PyTorch, so that the other sides' peak memory is that of the engine.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qat.runtime.worker import peak_memory_mb, serve

SPEECHBRAIN = "speechbrain"
Times = dict[str, float]  # seconds of each part


class Exported:
    """A folder of `export_folder`.

    Args:
        folder: the folder.
        steps: that every search takes.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        from qat.runtime.attention_session import AttentionSession

        self.session, self.steps = AttentionSession(folder), steps

    def run(self, signal: Any, beam: int) -> Times:
        """Seconds of each part of one transcription."""
        from qat.decoding.method import search_of

        session = self.session
        encoded = session.encode(signal)
        ratio = (self.steps + 0.5) / encoded.frames
        settings = replace(session.settings, beam=beam, min_ratio=ratio, max_ratio=ratio)
        session.search = search_of("attention", settings, session.decoder_step, session.lm_step)
        session.decode(encoded)
        return {name: value / 1000 for name, value in session.times_ms.items()}


class SpeechBrain:
    """SpeechBrain's own modules and search, with the weights of the exported folders.

    Args:
        steps: that every search takes.
    """

    def __init__(self, steps: int) -> None:
        import torch

        from benchmarks.attention_models import published

        torch.set_num_threads(1)
        self.steps = steps
        with tempfile.TemporaryDirectory() as folder:
            self.model = published(Path(folder))

    def run(self, signal: Any, beam: int) -> Times:
        """Seconds of each part of one transcription."""
        import torch

        from benchmarks.speechbrain_search import speechbrain_searcher

        model, started = self.model, time.perf_counter()
        with torch.no_grad():
            features = (model.fbank(torch.from_numpy(signal)[None]) - model.mean) / model.deviation
            states = model.encoder(features)
            spent = {"encoder": time.perf_counter() - started, "decoder_step": 0.0, "lm_step": 0.0}
            ratio = (self.steps + 0.5) / states.shape[1]
            search = speechbrain_searcher(
                embedding=model.embedding,
                decoder=model.decoder,
                linear=model.seq_lin,
                lm=model.lm,
                vocabulary_size=model.options.vocabulary_size,
                settings=replace(model.settings, beam=beam, min_ratio=ratio, max_ratio=ratio),
            )
            search.forward_step = timed(search.forward_step, spent, "decoder_step")
            scorer = search.scorer.full_scorers["rnnlm"]
            scorer.score = timed(scorer.score, spent, "lm_step")
            began = time.perf_counter()
            search(states, torch.ones(1))
        total = time.perf_counter() - began
        return {**spent, "search": total - spent["decoder_step"] - spent["lm_step"]}


def timed(function: Callable[..., Any], spent: Times, name: str) -> Callable[..., Any]:
    """The function, whose time is added up."""

    def run(*args: Any, **named: Any) -> Any:
        started = time.perf_counter()
        found = function(*args, **named)
        spent[name] += time.perf_counter() - started
        return found

    return run


def answer(request: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """One reply.

    Requests: `{"open": "speechbrain" or a folder, "signal": npy, "steps": n, "cores": [0] | null}`, `{"run": beam}` and
    `{"memory": true}`.
    """
    if "open" in request:
        if request["cores"]:
            os.sched_setaffinity(0, request["cores"])
        state["signal"], steps = np.load(request["signal"]), request["steps"]
        is_theirs = request["open"] == SPEECHBRAIN
        state["side"] = SpeechBrain(steps) if is_theirs else Exported(Path(request["open"]), steps)
        return {"torch": "torch" in sys.modules}
    if "run" in request:
        return state["side"].run(state["signal"], request["run"])
    return {"peak_memory_mb": peak_memory_mb()}


if __name__ == "__main__":
    serve(answer)
