"""The README's table of speeds, from the stored results: `python -m benchmarks.publish`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.common import RESULTS, ROOT, table

PUBLISHED_AT = ROOT / "docs" / "results" / "speed.md"
Row = dict[str, Any]


def integer_rows(result: Row) -> Iterator[Row]:
    """Integer file against float file."""
    for row in result["results"]:
        yield {
            "what": f"{row['model']} at published size, {row['audio_s']:g} s of audio: float file / integer file",
            "ratio": row["speedup"],
            "milliseconds": f"{row['float_ms']:.0f} / {row['integer_ms']:.0f}",
        }


def step_rows(result: Row) -> Iterator[Row]:
    """Fine-tuning step against float step."""
    plain = {row["model"]: row["step_ms"] for row in result["results"] if row["method"] == "off"}
    for row in result["results"]:
        if row["method"] in ("deterministic", "stochastic"):
            yield {
                "what": f"{row['model']}, training step of {row['batch']} x {row['seconds']:g} s: "
                f"{row['method']} / float",
                "ratio": row["ratio"],
                "milliseconds": f"{row['step_ms']:.0f} / {plain[row['model']]:.0f}",
            }


def calibration_rows(result: Row) -> Iterator[Row]:
    """Calibration against evaluation."""
    for row in result["results"]:
        yield {
            "what": f"{row['model']}, calibration by {row['observer']} / evaluation",
            "ratio": row["ratio"],
            "milliseconds": f"{row['observed_ms']:.0f} / {row['forward_ms']:.0f}",
        }


SECTIONS = {
    "integer_vs_float": integer_rows,
    "integer_vs_float_avx2": integer_rows,
    "qat_step": step_rows,
    "calibration": calibration_rows,
}


def main() -> None:
    rows = []
    for name, section in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            result = json.loads(path.read_text())
            vnni = " with VNNI" if result["cpu_vnni"] and result["instructions"] != "AVX2" else ""
            more = {"instructions": result["instructions"] + vnni, "command": f"`{result['command']}`"}
            rows += [{**row, **more} for row in section(result)]
    PUBLISHED_AT.write_text(table(rows, ["what", "ratio", "milliseconds", "instructions", "command"]) + "\n")
    print(f"saved {PUBLISHED_AT}")


if __name__ == "__main__":
    main()
