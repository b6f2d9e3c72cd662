"""Write the tables of benchmarks.md, gpu.md, peers.md and reliability.md in docs/: `python -m benchmarks.publish`.

Everything between `<!-- table: FILE -->` and `<!-- end -->` is rewritten from that result file; between
`<!-- gpu: FILE checks -->` (or `steps`) and `<!-- end -->` stand tables of `benchmarks.gpu`, where its file is stored;
between `<!-- peers: FILE MODEL -->` and `<!-- end -->` the table of a model from `benchmarks.peers`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import gpu_page, peers_page, reliability_rows
from benchmarks.result_file import ROOT, table
from qat.report.readme import fill_blocks
from qat.system.files import write_text

PAGES = tuple(ROOT / "docs" / f"{name}.md" for name in ("benchmarks", "gpu", "peers", "reliability"))
MODULES = {  # the others are `benchmarks.NAME`
    "soak": "tests.soak",
    "fuzz": "tests.fuzz_inputs",
    "coverage_fuzz": "tests.coverage_fuzz",
}
Row = dict[str, Any]


def milliseconds(value: float) -> str:
    """Whole milliseconds."""
    return f"{value:.0f}"


def integer_rows(results: list[Row]) -> Iterator[Row]:
    """Integer file beside float files."""
    for row in results:
        yield {
            "model": f"{row['model']}, {row['parameters_m']:.3g} M parameters",
            "audio s": f"{row['audio_s']:g}",
            "float ms": milliseconds(row["float_ms"]),
            "fused float ms": milliseconds(row["fused_float_ms"]),
            "integer ms": milliseconds(row["integer_ms"]),
            "speedup": f"{row['speedup']:.2f}x",
            "to fused float": f"{row['speedup_to_fused']:.2f}x",
            "float MB": f"{row['float_size_mb']:.3g}",
            "integer MB": f"{row['integer_size_mb']:.3g}",
        }


def engine_rows(results: list[Row]) -> Iterator[Row]:
    """One model on several engines, beside the float file on ONNX Runtime."""
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    for row in results:
        yield {
            "model": row["model"],
            "threads": row["threads"],
            "batch": row["batch"],
            "file": row["file"],
            "engine": names[row["engine"]],
            "ms": milliseconds(row["ms"]),
            "speed": f"{row['ratio']:.2f}x",
        }


def step_rows(results: list[Row]) -> Iterator[Row]:
    """Fine-tuning step beside float step."""
    plain = {row["model"]: row["step_ms"] for row in results if row["method"] == "off"}
    for row in results:
        if row["method"] in ("deterministic", "stochastic"):
            yield {
                "model": row["model"],
                "batch": f"{row['batch']} x {row['seconds']:g} s",
                "preset": row["method"],
                "float step ms": milliseconds(plain[row["model"]]),
                "quantized step ms": milliseconds(row["step_ms"]),
                "ratio": row["ratio"],
            }


def calibration_rows(results: list[Row]) -> Iterator[Row]:
    """Calibration beside evaluation."""
    for row in results:
        yield {
            "model": row["model"],
            "observer": row["observer"],
            "evaluation ms": milliseconds(row["forward_ms"]),
            "calibration ms": milliseconds(row["observed_ms"]),
            "ratio": row["ratio"],
        }


def ada_round_rows(results: list[Row]) -> Iterator[Row]:
    """A step of each AdaRound, and the error that it leaves."""
    for row in results:
        yield {
            "implementation": {"ours": "this project", "plain": "plain PyTorch", "aimet": "AIMET"}[
                row["method"]
            ],
            "layer": " x ".join(map(str, row["shape"])),
            "bits": row["bits"],
            "steps": row["steps"],
            "step ms": milliseconds(row["step_ms"]),
            "time / ours": row["ratio"],
            "error / nearest rounding's": row["error_over_nearest"],
        }


def loader_rows(results: list[Row]) -> Iterator[Row]:
    """How long a training step waits for its batch, by the number of worker processes."""
    for row in results:
        model, _, rest = row["what"].partition(":")
        yield {
            "model": model,
            "workers": rest.split()[-2],
            "wait ms": row["value"],
            "training step ms": milliseconds(row["beside"]),
            "wait / step": row["ratio"],
            "aim": row["aim"],
        }


def rank_rows(results: list[Row]) -> Iterator[Row]:
    """Training in two processes beside training in one."""
    for row in results:
        yield {
            "training": ", ".join(row["what"].split(", ")[:2]),
            "1 process, utterances/s": row["beside"],
            "2 processes, utterances/s": row["value"],
            "ratio": row["ratio"],
            "aim": row["aim"],
        }


def resume_rows(results: list[Row]) -> Iterator[Row]:
    """Time to the first batch of a resumed run beside a fresh one."""
    for row in results:
        yield {
            "model": row["what"].partition(":")[0],
            "fresh run s": row["beside"],
            "resumed run s": row["value"],
            "difference s": row["ratio"],
            "aim": row["aim"].partition(" (")[0],
        }


def stream_rows(results: list[Row]) -> Iterator[Row]:
    """Memory and time to the first batch of a stream; where there is a value before it, the difference counts."""
    for row in results:
        yield {
            "what": row["what"].removesuffix(" / before it"),
            "before": row["beside"],
            "with the stream": row["value"],
            "difference": None if row["beside"] is None else row["ratio"],
            "aim": row["aim"],
        }


def attention_rows(results: list[Row]) -> Iterator[Row]:
    """SpeechBrain's attention model beside its exported folders; parts of a search for each step."""
    for row in results:
        yield {
            "model": row["implementation"],
            "beam": row["beam"],
            "total s": f"{row['total_ms'] / 1000:.1f}",
            "SpeechBrain's / this": f"{row['speechbrain_over_this']:.2f}x",
            "float graphs' / this": f"{row['float_over_this']:.2f}x",
            "encoder ms": milliseconds(row["encoder_ms"]),
            "decoder ms/step": milliseconds(row["decoder_step_ms"]),
            "language model ms/step": milliseconds(row["lm_step_ms"]),
            "search ms/step": f"{row['search_step_ms']:.1f}",
            "peak MB": milliseconds(row["peak_memory_mb"]),
            "size MB": None if row["size_mb"] is None else milliseconds(row["size_mb"]),
        }


def equality_rows(results: list[Row]) -> Iterator[Row]:
    """Utterances on which an exported search and SpeechBrain's find the same tokens."""
    for row in results:
        yield {
            "split": row["split"],
            "beam": row["beam"],
            "utterances": row["utterances"],
            "same tokens": row["equal"],
            "tokens": row["tokens"],
            "largest difference of a score": f"{row['largest_score_difference']:.1e}",
        }


def beam_rows(results: list[Row]) -> Iterator[Row]:
    """Error rate and time against the width of the beam."""
    for row in results:
        yield {
            "file": row["model"],
            "beam": row["beam"],
            "dev utterances": row["utterances"],
            "dev WER %": f"{row['wer']:.2f}",
            "median ms": milliseconds(row["median_ms"]),
            "time / the narrowest's": f"{row['ratio']:.2f}",
        }


def equalize_rows(results: list[Row]) -> Iterator[Row]:
    """Planted outliers: error rates with and without equalization."""
    for row in results:
        low, high = row["ci95"]
        is_float = row["method"] == "float"
        yield {
            "model": row["model"],
            "weights": row["weights"],
            "file": row["method"],
            "`equalize`": row["equalize"],
            "dev utterances": row["utterances"],
            "dev WER %": f"{row['wer']:.2f}",
            "difference to float": "" if is_float else f"{row['delta']:+.2f} [{low:+.2f}, {high:+.2f}]",
            "p": "" if is_float else f"{row['p_value']:.4f}",
            "same words": row["same_words"],
        }


def processor_rows(results: list[Row]) -> Iterator[Row]:
    """Rows of the suite by the fake-quantized model, on the weight ranges of two kinds of processor."""
    for row in results:
        yield {
            "row": row["row"],
            "8-bit weights": "7-bit range, as without VNNI"
            if row["reduce_range"]
            else "full range, as with VNNI",
            "threads": row["threads"],
            "test set": row["split"],
            "word errors": row["errors"],
            "stored row (VNNI)": row["stored"],
            "utterances with other errors": f"{row['differing']} of {row['utterances']}",
        }


SECTIONS = {
    "coverage_fuzz": reliability_rows.guided,
    "long_audio": reliability_rows.long_audio,
    "equalize": equalize_rows,
    "processors": processor_rows,
    "fuzz": reliability_rows.mutated,
    "soak": reliability_rows.soak,
    "beams": beam_rows,
    "attention": attention_rows,
    "attention_avx2": attention_rows,
    "search_equality": equality_rows,
    "engines": engine_rows,
    "integer_vs_float": integer_rows,
    "integer_vs_float_avx2": integer_rows,
    "qat_step": step_rows,
    "calibration": calibration_rows,
    "ada_round": ada_round_rows,
    "throughput_loader": loader_rows,
    "throughput_ranks": rank_rows,
    "throughput_resume": resume_rows,
    "throughput_stream": stream_rows,
}


def published(path: Path, words: str = "") -> str:
    """The table of one result file, with the command and the processor that gave it; a line where there is none yet."""
    section = SECTIONS[path.stem]
    if not path.is_file():
        return f"Not measured yet: `python -m {MODULES.get(path.stem, f'benchmarks.{path.stem}')}`\n"
    stored = json.loads(path.read_text())
    rows = list(section(stored["results"]))
    vnni = " with VNNI" if stored["cpu_vnni"] and stored["instructions"] != "AVX2" else ""
    made = f"`{stored['command']}` on {stored['device']}, {stored['instructions']}{vnni}"
    return f"{table(rows, list(rows[0]))}\n\n{made}\n"


def fill(text: str, root: Path = ROOT) -> str:
    """The text with every table rewritten from its result file."""
    for kind, make in (("table", published), ("gpu", gpu_page.block), ("peers", peers_page.block)):
        text = fill_blocks(text, kind, make, root, may_be_absent=True)
    return text


def main() -> None:
    """Rewrite the pages."""
    for page in PAGES:
        write_text(page, fill(page.read_text()))
        print(f"wrote the tables of {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
