"""Word error rate on dev and time against the width of the beam, of an exported attention folder.

`python -m benchmarks.beams [--folder RUN/model] [--beams 1 2 4 8 16] [--utterances N]`

Without a folder: the shipped mini model in float. All beams read an utterance before any reads the next.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result_file import save, table
from benchmarks.search_equality import CHECKPOINT
from datamodules.mini_corpus import MiniDataModule
from qat.decoding.method import search_of
from qat.evaluation.parity import signal_of, word_error_rate
from qat.models.loading import load_module
from qat.runtime.attention_export import export
from qat.runtime.attention_session import AttentionSession


def measure(session: AttentionSession, data: MiniDataModule, beams: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each beam.

    Args:
        session: an open folder.
        data: whose dev is read.
        beams: widths.
    """
    utterances = data.utterances("dev")
    searches = {
        beam: search_of(
            "attention", replace(session.settings, beam=beam), session.decoder_step, session.lm_step
        )
        for beam in beams
    }
    texts: dict[int, list[str]] = {beam: [] for beam in beams}
    times: dict[int, list[float]] = {beam: [] for beam in beams}
    for batch in data.loader(utterances):
        encoded = session.encode(signal_of(batch))
        encoder_s = session.times_ms["encoder"] / 1000
        for beam, search in searches.items():
            started = time.perf_counter()
            tokens = search(encoded).tokens
            times[beam].append(encoder_s + time.perf_counter() - started)
            texts[beam].append(session.tokenizer.decode(tokens))
    references = [item.text for item in utterances]
    first = np.array(times[beams[0]])
    return [
        {
            "model": session.manifest.values["precision"],
            "beam": beam,
            "utterances": len(utterances),
            "wer": word_error_rate(references, texts[beam]),
            "median_ms": 1000 * float(np.median(times[beam])),
            "ratio": float(np.median(np.array(times[beam]) / first)),
        }
        for beam in beams
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="an exported folder; default: the shipped model in float")
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--utterances", type=int, help="of dev; default: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or export(load_module(CHECKPOINT), Path(temporary) / "float", "float").path
        session = AttentionSession(folder)
        results = measure(session, MiniDataModule(max_test_utterances=options.utterances), options.beams)
    print(table(results, list(results[0])))
    if options.utterances is None:
        print(f"saved {save('beams', results)}")


if __name__ == "__main__":
    main()
