"""Word error rate on dev and time against the width of the beam, of an exported attention folder.

`python -m benchmarks.beams [--folder RUN/model] [--beams 1 2 4 8 16] [--utterances N]`

Without a folder: the shipped mini model in float. The beams are measured as a report measures them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.result_file import save, table
from benchmarks.search_equality import CHECKPOINT
from datamodules.mini_corpus import MiniDataModule
from qat.decoding.options import DecodingOptions
from qat.evaluation.beams import measure_beams
from qat.evaluation.options import EvaluationOptions
from qat.models.loading import load_module
from qat.runtime.attention_export import export
from qat.runtime.manifest import read_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="an exported folder; default: the shipped model in float")
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--utterances", type=int, help="of dev; default: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder
        if folder is None:
            folder = export(load_module(CHECKPOINT), Path(temporary) / "float", "float").path
        data = MiniDataModule(max_test_utterances=options.utterances)
        points = measure_beams(folder, data, EvaluationOptions(beams=options.beams), DecodingOptions())
        precision = read_manifest(folder).values["precision"]
    results = [
        {
            "model": precision,
            "beam": point.beam,
            "utterances": point.utterances,
            "wer": point.wer,
            "median_ms": point.latency_ms,
            "ratio": point.latency_ms / points[0].latency_ms,
        }
        for point in points
    ]
    print(table(results, list(results[0])))
    if options.utterances is None:
        print(f"saved {save('beams', results)}")


if __name__ == "__main__":
    main()
