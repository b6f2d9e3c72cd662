"""Exported integer file against exported float files, with random weights, at published size or as shipped.

`python -m benchmarks.integer_vs_float [--models wav2vec2 crdnn] [--seconds 10] [--threads 1] [--repeats 20]`

Two float files: one of standard operators alone, as PyTorch's exporter writes it, and one with the operators that ONNX
Runtime computes fastest, as our integer file has them where it computes in float.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.common import PUBLISHED, calibrate_on_noise_, mini, noise, published
from benchmarks.result_file import ROOT, save, table
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from qat.runtime.export import export_onnx
from qat.runtime.formats import FileFormat, Precision
from qat.runtime.graph import count_nodes, optimised_graph
from qat.runtime.latency import measure_latency

SHIPPED = ("mini_wav2vec2", "mini_wav2vec2_static", "mini_crdnn")  # configurations
# all configurations leave the waveform in float; those of published models give each frame of the extractor a range
WAVEFORM: dict[str, Any] = {"match": "*conv_layers.0.conv", "activation_bits": 0}
FRAMES: dict[str, Any] = {"match": "feature_extractor", "activation_granularity": "frame"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("wav2vec2", {"rules": [WAVEFORM]}),
    "wav2vec2_attention": ("wav2vec2", {"rules": [WAVEFORM], "attention_bits": 8}),
    "wav2vec2_frames": ("wav2vec2", {"rules": [WAVEFORM, FRAMES]}),
}  # one of `PUBLISHED`, and what its recipe says besides
FILES: dict[str, tuple[Precision, FileFormat]] = {
    "plain": ("float", "qdq"),
    "float": ("float", "onnxruntime"),
    "integer": ("integer", "onnxruntime"),
}


def build(name: str, **fields: Any) -> CTCModule:
    """A quantized model, its ranges from noise: one of `PUBLISHED`, or of a configuration with its rules.

    Args:
        name: of the model; or one of `VARIANTS`.
        fields: of the recipe.
    """
    name, further = VARIANTS.get(name, (name, {}))
    settings: dict[str, Any] = {"preset": "benchmark", **fields, **further}
    if name in PUBLISHED:
        module = published(name, Recipe.from_dict(settings))
    else:
        rules = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text()).get("qat") or {}
        module = mini(name.split("_")[1], Recipe.from_dict({**settings, **rules}))
    calibrate_on_noise_(module.eval())
    return module


def compare(float_file: Path, integer_file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Latency of both, in turns; `speedup_of_pairs` is the median ratio of neighbouring runs."""
    timing = measure_latency(
        float_file,
        integer_file,
        [noise(1, options.seconds)[0].numpy()],
        threads=options.threads,
        warmup=options.warmup,
        repeats=options.repeats,
    )
    pairs = zip(timing["float"]["times_ms"], timing["integer"]["times_ms"], strict=True)
    return {**timing, "speedup_of_pairs": median(one / two for one, two in pairs)}


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Export the files of one model and time them."""
    module = build(name, weight_bits=options.weight_bits)
    files = {
        kind: export_onnx(module, folder / f"{kind}.onnx", precision, file_format=file_format)
        for kind, (precision, file_format) in FILES.items()
    }
    nodes = count_nodes(optimised_graph(files["integer"].path)).to_dict()
    plain, same = (compare(files[kind].path, files["integer"].path, options) for kind in ("plain", "float"))
    return {
        "model": name,
        "parameters_m": sum(item.numel() for item in module.parameters()) / 1e6,
        "audio_s": options.seconds,
        "threads": options.threads,
        "float_ms": plain["float"]["latency_ms"]["p50"],
        "fused_float_ms": same["float"]["latency_ms"]["p50"],
        "integer_ms": plain["integer"]["latency_ms"]["p50"],
        "speedup": plain["speedup_of_pairs"],
        "speedup_to_fused": same["speedup_of_pairs"],
        "float_size_mb": files["float"].size_mb,
        "integer_size_mb": files["integer"].size_mb,
        "integer_nodes": nodes["integer"],
        "float_compute_nodes": nodes["float_compute"],
        "reduce_range": module.recipe.reduce_range,
        "timing": {"plain": plain, "fused": same},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", nargs="+", choices=[*{**PUBLISHED, **VARIANTS}, *SHIPPED], default=list(PUBLISHED)
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--weight_bits", type=int, default=8)
    parser.add_argument("--name", default="integer_vs_float", help="stem of the result file")
    options = parser.parse_args()
    results = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, options, Path(folder)))
    columns = ["model", "parameters_m", "audio_s", "threads", "float_ms", "fused_float_ms", "integer_ms"]
    columns += ["speedup", "speedup_to_fused", "float_size_mb", "integer_size_mb", "integer_nodes"]
    print(table(results, columns))
    print(f"saved {save(options.name, results)}")


if __name__ == "__main__":
    main()
