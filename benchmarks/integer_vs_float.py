"""Exported integer file against exported float file, models of published size with random weights.

`python -m benchmarks.integer_vs_float [--models crdnn wav2vec2] [--seconds 10] [--threads 1] [--repeats 20]`
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import PUBLISHED, calibrate_on_noise_, noise, published
from benchmarks.result_file import save, table
from qat.recipe import Recipe
from qat.runtime.export import export_onnx
from qat.runtime.graph import count_nodes, optimised_graph
from qat.runtime.latency import measure_latency


def measure(kind: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Export both files of one model and time them."""
    module = published(kind, Recipe(preset="benchmark", weight_bits=options.weight_bits)).eval()
    parameters = sum(item.numel() for item in module.parameters())
    calibrate_on_noise_(module)
    files = {name: export_onnx(module, folder / f"{kind}_{name}.onnx", name) for name in ("float", "integer")}
    nodes = count_nodes(optimised_graph(files["integer"].path)).to_dict()
    signal = noise(1, options.seconds)[0].numpy()
    timing = measure_latency(
        files["float"].path,
        files["integer"].path,
        [signal],
        threads=options.threads,
        warmup=options.warmup,
        repeats=options.repeats,
    )
    ratios = [
        one / two for one, two in zip(timing["float"]["times_ms"], timing["integer"]["times_ms"], strict=True)
    ]
    return {
        "model": kind,
        "parameters_m": parameters / 1e6,
        "audio_s": options.seconds,
        "threads": options.threads,
        "float_ms": timing["float"]["latency_ms"]["p50"],
        "integer_ms": timing["integer"]["latency_ms"]["p50"],
        "speedup": timing["speedup"],
        "speedup_of_pairs": sorted(ratios)[len(ratios) // 2],
        "float_size_mb": files["float"].size_mb,
        "integer_size_mb": files["integer"].size_mb,
        "integer_nodes": nodes["integer"],
        "float_compute_nodes": nodes["float_compute"],
        "reduce_range": module.recipe.reduce_range,
        "timing": timing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--weight_bits", type=int, default=8)
    parser.add_argument("--name", default="integer_vs_float", help="stem of the result file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(kind, options, Path(folder)) for kind in options.models]
    columns = ["model", "parameters_m", "audio_s", "threads", "float_ms", "integer_ms", "speedup"]
    columns += ["float_size_mb", "integer_size_mb", "integer_nodes", "float_compute_nodes"]
    print(table(results, columns))
    print(f"saved {save(options.name, results)}")


if __name__ == "__main__":
    main()
