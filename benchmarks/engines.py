"""One model on several engines: float and integer files on ONNX Runtime and OpenVINO, ours and NNCF's, in turns.

`python -m benchmarks.engines [--models wav2vec2 crdnn] [--settings 1x1 2x1 1x8] [--seconds 10] [--repeats 12]`

Published sizes with random weights; a setting is threads x utterances in a batch. NNCF and OpenVINO come with
`pip install 'speech-qat[peers]'`. With one thread, what counts is processor time; with two, the clock. Of one utterance
all sides take turns; of a batch, which takes gigabytes, each takes turns with the first alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import PUBLISHED, noise
from benchmarks.integer_vs_float import SHIPPED, build
from benchmarks.peers_openvino import quantize
from benchmarks.peers_speed import PeerWorker
from benchmarks.result_file import save, table
from qat.layer_recipe import Target
from qat.layers.swap import quant_layers
from qat.runtime.export import export_onnx
from qat.runtime.formats import EngineName, FileFormat, Precision
from qat.runtime.latency import write_signals
from qat.system.hardware import idle_cores

SHORTEST_SHARE = 0.7  # of the longest utterance of a batch
WARMUP = 3  # ONNX Runtime plans its memory in the second run of a length


@dataclass(frozen=True)
class Side:
    """A file on an engine.

    Args:
        name: of the row.
        precision: of the file.
        file_format: of the file.
        engine: that runs it.
        target: of the recipe.
        nncf: quantized by NNCF from the float file.
        attention_bits: of the recipe; only models with self-attention have such a side.
    """

    name: str
    precision: Precision
    file_format: FileFormat
    engine: EngineName
    target: Target = "onnxruntime"
    nncf: bool = False
    attention_bits: int = 0


SIDES = (
    Side("float", "float", "qdq", "onnxruntime"),
    Side("float", "float", "qdq", "openvino"),
    Side("NNCF int8", "float", "qdq", "openvino", nncf=True),
    Side("ours, standard operators", "integer", "qdq", "openvino"),
    Side("ours, standard operators, target openvino", "integer", "qdq", "openvino", "openvino"),
    Side("ours, standard operators", "integer", "qdq", "onnxruntime"),
    Side("ours", "integer", "onnxruntime", "onnxruntime"),
    Side("ours, attention on integers", "integer", "onnxruntime", "onnxruntime", attention_bits=8),
)


def write_files(name: str, folder: Path) -> dict[Side, Path]:
    """The file of each side."""
    files: dict[Side, Path] = {}
    attends = name.endswith("wav2vec2")
    sides = [side for side in SIDES if attends or not side.attention_bits]
    layers: list[str] = []  # whose activations are quantized, with the first target
    for target, bits in dict.fromkeys((side.target, side.attention_bits) for side in sides):
        module = build(name, target=target, attention_bits=bits)
        for number, side in enumerate(sides):
            path = folder / f"{number}.onnx"
            if (side.target, side.attention_bits, side.nncf) == (target, bits, False):
                files[side] = export_onnx(module, path, side.precision, file_format=side.file_format).path
        layers = layers or [
            name for name, layer in quant_layers(module) if layer.layer_recipe.activation_bits
        ]
    base = files[sides[0]]
    signals = [noise(1, 3.0, seed=seed)[0].numpy() for seed in (1, 2)]
    for side in sides:
        if side.nncf:
            files[side] = quantize(base, signals, layers, attends, folder / "nncf")
    return {side: files[side] for side in sides}


def utterances(seconds: float, batch: int) -> tuple[Any, Any]:
    """Zero-padded noise `(B, S)` and lengths `(B,)`, evenly down to the shortest."""
    signal = noise(batch, seconds).numpy()
    shares = np.linspace(1.0, SHORTEST_SHARE if batch > 1 else 1.0, batch)
    lengths = (shares * signal.shape[1]).astype(np.int64)
    signal[np.arange(signal.shape[1]) >= lengths[:, None]] = 0.0
    return signal, lengths


def time_sides(
    files: dict[Side, Path], threads: int, batch: int, options: argparse.Namespace, folder: Path
) -> list[dict[str, float]]:
    """Median milliseconds of each side, and how many times as fast as the first it is; they take turns."""
    store = write_signals(folder, utterances(options.seconds, batch))
    repeats = options.repeats if batch == 1 else max(options.repeats // 3, 1)
    first, *others = files
    groups = [list(files)] if batch == 1 else [[first, side] for side in others]
    found: dict[Side, dict[str, float]] = {}
    for group in groups:
        rounds = in_turns([(files[side], side.engine) for side in group], threads, repeats, store)
        for index, side in enumerate(group):
            mine = [times[index] for times in rounds]
            ratio = median(times[0] / time for times, time in zip(rounds, mine, strict=True))
            found.setdefault(side, {"ms": 1000.0 * median(mine), "ratio": ratio})
    return [found[side] for side in files]


def in_turns(
    files: Sequence[tuple[Path, EngineName]], threads: int, repeats: int, store: Path
) -> list[list[float]]:
    """Seconds of each file in each round."""
    clock = "seconds" if threads == 1 else "wall_s"
    with ExitStack() as stack:
        cores = idle_cores(threads)
        workers = [
            stack.enter_context(PeerWorker(path, engine, store, cores, threads)) for path, engine in files
        ]
        for worker in workers * WARMUP:
            worker.ask(batch=True)
        return [[worker.ask(batch=True)[clock] for worker in workers] for _ in range(repeats)]


def measure(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of a model, as they come."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(name, Path(folder))
        for setting in options.settings:
            threads, batch = map(int, setting.split("x"))
            found = time_sides(files, threads, batch, options, Path(folder))
            for side, values in zip(files, found, strict=True):
                where = {"model": name, "threads": threads, "batch": batch, "file": side.name}
                yield {**where, "engine": side.engine, "audio_s": options.seconds, **values}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    minis = [name for name in SHIPPED if not name.endswith("static")]
    parser.add_argument("--models", nargs="+", choices=[*PUBLISHED, *minis], default=list(PUBLISHED))
    parser.add_argument("--settings", nargs="+", default=["1x1", "2x1", "1x8"], metavar="THREADSxBATCH")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--name", default="engines", help="stem of the result file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for row in chain.from_iterable(measure(name, options) for name in options.models):
        rows.append(row)
        print(f"{table([row], list(row))}\nsaved {save(options.name, rows)}", flush=True)


if __name__ == "__main__":
    main()
