"""Are the tokens of an exported float folder those of SpeechBrain's own search? On every utterance of the test sets.

`python -m benchmarks.search_equality [--checkpoint FILE] [--beams 1 8 80] [--splits NAME ...] [--limit N]`

SpeechBrain searches over its own modules with the checkpoint's weights, one utterance at a time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.result_file import save, table
from benchmarks.speechbrain_search import speechbrain_searcher
from datamodules.mini_corpus import MiniDataModule
from qat.decoding.method import search_of
from qat.evaluation.parity import signal_of
from qat.models.attention import AttentionModule
from qat.models.attention_steps import encode
from qat.models.loading import load_module
from qat.runtime.attention_export import export
from qat.runtime.attention_session import AttentionSession

CHECKPOINT = Path("checkpoints/mini_crdnn_attention/model.ckpt")
Found = tuple[list[int], float]  # tokens, score


@torch.no_grad()
def theirs(module: AttentionModule, signal: Any, search: Any) -> Found:
    """What SpeechBrain's search finds."""
    states = torch.from_numpy(encode(module, signal).states)[None]  # on the CPU: as the module
    tokens, _, scores, _ = search(states, torch.ones(1))
    return tokens[0], float(scores[0])


def compare(
    module: AttentionModule, session: AttentionSession, signals: Sequence[Any], beam: int
) -> dict[str, Any]:
    """Utterances whose tokens are equal, and the largest difference of their scores."""
    settings = replace(session.settings, beam=beam)
    search = speechbrain_searcher(
        embedding=module.embedding,
        decoder=module.decoder,
        linear=module.seq_lin,
        lm=module.lm,
        vocabulary_size=len(module.tokenizer.pieces),
        settings=settings,
    )
    session.search = search_of("attention", settings, session.decoder_step, session.lm_step)
    equal, tokens, difference = 0, 0, 0.0
    for signal in signals:
        found = session.decode(session.encode(signal))
        expected, score = theirs(module, signal, search)
        equal += found.tokens == expected
        tokens += len(expected)
        if found.tokens == expected and expected:
            difference = max(difference, abs(found.score - score))
    return {
        "beam": beam,
        "utterances": len(signals),
        "equal": equal,
        "tokens": tokens,
        "largest_score_difference": difference,
    }


def measure(
    checkpoint: Path, data: MiniDataModule, splits: Sequence[str], beams: Sequence[int]
) -> list[dict[str, Any]]:
    """A row for each split and beam.

    Args:
        checkpoint: a float `AttentionModule`.
        data: has the splits.
        splits: to read.
        beams: widths.
    """
    module: Any = load_module(checkpoint)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        session = AttentionSession(export(module, Path(folder) / "float", "float").path)
        for split in splits:
            signals = [signal_of(batch) for batch in data.loader(data.utterances(split))]
            for beam in beams:
                rows.append({"split": split, **compare(module, session, signals, beam)})
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 8, 80])
    parser.add_argument("--splits", nargs="+", default=["test_seen", "test_unseen", "test_real"])
    parser.add_argument("--limit", type=int, help="utterances of each split; stores nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(
        options.checkpoint, MiniDataModule(max_test_utterances=options.limit), options.splits, options.beams
    )
    print(table(rows, list(rows[0])))
    if options.limit is None:
        print(f"saved {save('search_equality', rows)}")


if __name__ == "__main__":
    main()
