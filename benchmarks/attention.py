"""SpeechBrain's attention model against its exported float and integer folders, at the published size.

`python -m benchmarks.attention [--beams 80 10] [--seconds 10] [--steps 58] [--repeats 5] [--folder DIR] [--quick]`

Random weights, one thread, one utterance of noise, a search of a fixed number of steps. Each side has a process of its
own; they take turns. `--folder` keeps the exported folders for the next time; `--quick` takes few steps, once.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attention_worker import SPEECHBRAIN
from benchmarks.common import noise
from benchmarks.result_file import save, table
from qat.evaluation.graphs import size_mb
from qat.runtime.latency import ChildProcess
from qat.system.hardware import idle_cores

PARTS = ("encoder", "decoder_step", "lm_step", "search")
SIDES = (SPEECHBRAIN, "float", "integer")


class Child(ChildProcess):
    """A worker process; use as a context manager.

    Args:
        request: that opens its side.
    """

    def __init__(self, **request: Any) -> None:
        super().__init__("benchmarks.attention_worker", threads=1)
        self.ask(**request)


def export_both(folder: Path) -> None:
    """Write `float` and `integer`, unless they are there."""
    from benchmarks.attention_models import calibrate_on_noise_, published
    from qat.recipe import Recipe
    from qat.runtime.attention_export import export

    if all((folder / name / "manifest.json").is_file() for name in SIDES[1:]):
        return
    module = published(folder, Recipe(preset="benchmark"))
    calibrate_on_noise_(module)
    for name in ("float", "integer"):
        print(f"exported {export(module, folder / name, name)}", flush=True)


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of all sides and beams."""
    store = folder / "signal.npy"
    np.save(store, noise(1, options.seconds)[0].numpy())
    common = {"signal": str(store), "steps": options.steps, "cores": idle_cores(1)}
    rows = []
    with ExitStack() as stack:
        opened = {
            side: stack.enter_context(
                Child(open=side if side == SPEECHBRAIN else str(folder / side), **common)
            )
            for side in SIDES
        }
        for beam in options.beams:
            runs = take_turns(opened, beam, options.repeats)
            rows += [row_of(side, beam, runs, options) for side in SIDES]
        for row in rows:
            side = row["implementation"]
            row["peak_memory_mb"] = opened[side].ask(memory=True)["peak_memory_mb"]
            row["size_mb"] = None if side == SPEECHBRAIN else size_mb(folder / side)
    return rows


def take_turns(opened: dict[str, Child], beam: int, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of each part, of every side's runs; the first run of the exported sides is not counted."""
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in opened}
    for side in SIDES[1:]:
        opened[side].ask(run=beam)
    for turn in range(repeats):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            runs[side].append(opened[side].ask(run=beam))
            print(f"beam {beam} {side}: {sum(runs[side][-1].values()):.2f} s", flush=True)
    return runs


def row_of(
    side: str, beam: int, runs: dict[str, list[dict[str, float]]], options: argparse.Namespace
) -> dict[str, Any]:
    """Medians of one side: of the whole, of the encoder, and of a step of each other part."""
    totals = {name: [sum(item.values()) for item in found] for name, found in runs.items()}
    parts = {part: 1000 * float(np.median([item[part] for item in runs[side]])) for part in PARTS}

    def ratio(other: str) -> float:
        return float(np.median([two / one for one, two in zip(totals[side], totals[other], strict=True)]))

    return {
        "implementation": side,
        "beam": beam,
        "audio_s": options.seconds,
        "steps": options.steps,
        "total_ms": 1000 * float(np.median(totals[side])),
        "encoder_ms": parts["encoder"],
        "decoder_step_ms": parts["decoder_step"] / options.steps,
        "lm_step_ms": parts["lm_step"] / options.steps,
        "search_step_ms": parts["search"] / options.steps,
        "speechbrain_over_this": ratio(SPEECHBRAIN),
        "float_over_this": ratio("float"),
        "runs_ms": [round(1000 * value, 1) for value in totals[side]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beams", nargs="+", type=int, default=[80, 10])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=58)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the exported folders are, or are to stay")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: 4 steps, once; stores nothing")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.repeats = 4, 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        export_both(folder)
        results = measure(folder.resolve(), options)
    columns = ["implementation", "beam", "total_ms", "encoder_ms", "decoder_step_ms", "lm_step_ms"]
    columns += ["search_step_ms", "speechbrain_over_this", "float_over_this", "peak_memory_mb", "size_mb"]
    print(table(results, columns))
    if not options.quick:
        print(f"saved {save('attention', results)}")


if __name__ == "__main__":
    main()
