"""The README's tables of speeds and of training at scale, from the stored results: `python -m benchmarks.publish`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.common import RESULTS, ROOT, table

PUBLISHED_AT = ROOT / "docs" / "results"
Row = dict[str, Any]


def entry(what: str, ratio: float, above_ms: float, below_ms: float) -> Row:
    """One line of the table."""
    return {"what": what, "ratio": ratio, "milliseconds": f"{above_ms:.0f} / {below_ms:.0f}"}


def integer_rows(result: Row) -> Iterator[Row]:
    """Integer file against float file."""
    for row in result["results"]:
        what = f"{row['model']} at published size, {row['audio_s']:g} s of audio: float file / integer file"
        yield entry(what, row["speedup"], row["float_ms"], row["integer_ms"])


def step_rows(result: Row) -> Iterator[Row]:
    """Fine-tuning step against float step."""
    plain = {row["model"]: row["step_ms"] for row in result["results"] if row["method"] == "off"}
    for row in result["results"]:
        if row["method"] in ("deterministic", "stochastic"):
            batch = f"{row['batch']} x {row['seconds']:g} s"
            what = f"{row['model']}, training step of {batch}: {row['method']} / float"
            yield entry(what, row["ratio"], row["step_ms"], plain[row["model"]])


def calibration_rows(result: Row) -> Iterator[Row]:
    """Calibration against evaluation."""
    for row in result["results"]:
        what = f"{row['model']}, calibration by {row['observer']} / evaluation"
        yield entry(what, row["ratio"], row["observed_ms"], row["forward_ms"])


def ada_round_rows(result: Row) -> Iterator[Row]:
    """A step of other AdaRounds against ours, and the error that each leaves."""
    ours, *others = result["results"]
    for row in others:
        shape = " x ".join(map(str, row["shape"]))
        errors = f"error over nearest {row['error_over_nearest']:.2f} / {ours['error_over_nearest']:.2f}"
        what = f"AdaRound step, linear layer {shape}, {row['bits']} bits: {row['method']} / ours ({errors})"
        yield entry(what, row["ratio"], row["step_ms"], ours["step_ms"])


SECTIONS = {
    "integer_vs_float": integer_rows,
    "integer_vs_float_avx2": integer_rows,
    "qat_step": step_rows,
    "calibration": calibration_rows,
    "ada_round": ada_round_rows,
}


def speeds() -> str:
    """Ratios of things timed in turns."""
    rows = []
    for name, section in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            result = json.loads(path.read_text())
            vnni = " with VNNI" if result["cpu_vnni"] and result["instructions"] != "AVX2" else ""
            more = {"instructions": result["instructions"] + vnni, "command": f"`{result['command']}`"}
            rows += [{**row, **more} for row in section(result)]
    return table(rows, ["what", "ratio", "milliseconds", "instructions", "command"])


def throughput() -> str:
    """What `benchmarks.throughput` found, each part beside its aim."""
    rows = []
    for path in sorted(RESULTS.glob("throughput_*.json")):
        result = json.loads(path.read_text())
        rows += [{**row, "command": f"`{result['command']}`"} for row in result["results"]]
    return table(rows, ["what", "value", "beside", "ratio", "aim", "command"])


def main() -> None:
    for name, made in (("speed", speeds()), ("throughput", throughput())):
        (PUBLISHED_AT / f"{name}.md").write_text(made + "\n")
        print(f"saved {PUBLISHED_AT / name}.md")


if __name__ == "__main__":
    main()
