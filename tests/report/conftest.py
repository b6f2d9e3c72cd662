"""A full integer row and its float row, as a run writes them; whole run folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qat.report.row import Row, build_row, row_from, save_report

REFERENCES = [f"turn light number {index} on" for index in range(8)]
Make = Callable[..., Path]

COMMON = {
    "run": "demo",
    "model": "CRDNN",
    "seed": 1,
    "dataset": "mini",
    "split": "test_seen",
    "utterances": 2,
    "reference_words": 16,
    "engine": "onnxruntime 1.32.0",
    "provider": "CPUExecutionProvider",
    "device": "cpu",
    "threads": 1,
    "cpu_vnni": False,
    "batch_size": 1,
    "warmup": 3,
    "repeats": 20,
    "config_sha256": "a" * 64,
    "git_commit": "b" * 40,
    "versions": {"python": "3.11", "torch": "2.14.1"},
    "command": "python train.py --qat deterministic",
    "started_at": "2026-11-22T23:00:00+00:00",
    "duration_s": 12.5,
}
OF_THE_FLOAT_ROW = (
    *("delta_wer_vs_float", "float_latency_ms", "speedup", "float_size_mb"),
    *("coverage", "parity"),
)


@pytest.fixture
def row() -> Row:
    """An integer row without a null that needs a reason."""
    return build_row(
        **COMMON,
        suite_row="CRDNN QAT",
        method="deterministic",
        weight_bits=8,
        activation_bits=8,
        rounding="nearest",
        precision="integer",
        wer=12.5,
        wer_ci95=[0.0, 21.05],
        cer=4.0,
        substitutions=1,
        deletions=1,
        insertions=0,
        delta_wer_vs_float={"mean": 6.25, "ci95": [0.0, 12.5], "p_value": 0.25},
        wer_by_duration={
            "0-2s": {
                "utterances": 1,
                "reference_words": 7,
                "wer": 100 / 7,
                "substitutions": 1,
                "deletions": 0,
                "insertions": 0,
            }
        },
        latency_ms={"p50": 12.0, "p95": 15.5},
        rtf=0.01,
        float_latency_ms={"p50": 24.0, "p95": 26.0},
        speedup=2.0,
        size_mb=1.4,
        float_size_mb=5.2,
        peak_memory_mb=80.0,
        coverage={
            "weights": 0.98,
            "macs": 0.95,
            "layers_quantized": 8,
            "layers_total": 9,
            "skipped": [["head", "excluded by the recipe"]],
        },
        integer_nodes=9,
        float_compute_nodes=1,
        parity={"max_abs_logit": 0.02, "argmax_disagreement": 0.001, "wer_fake": 12.5, "wer_integer": 12.5},
        checkpoint_sha256="c" * 64,
    )


@pytest.fixture
def float_row() -> Row:
    """The float row that took turns with it."""
    return build_row(
        **COMMON,
        method="float",
        precision="float",
        wer=6.25,
        wer_ci95=[0.0, 12.5],
        cer=2.0,
        substitutions=1,
        deletions=0,
        insertions=0,
        wer_by_duration={},
        latency_ms={"p50": 24.0, "p95": 26.0},
        rtf=0.02,
        size_mb=5.2,
        peak_memory_mb=120.0,
        integer_nodes=0,
        float_compute_nodes=9,
        checkpoint_sha256="d" * 64,
        notes=[f"{name}: this row is the float model" for name in OF_THE_FLOAT_ROW],
    )


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Row) -> Make:
    """Writes `checkpoints/NAME`, a run with one word error in each of the given utterances."""
    monkeypatch.chdir(tmp_path)

    def make_run(name: str, wrong: list[int], group: str | None = None, **config: Any) -> Path:
        folder = Path("checkpoints") / name
        texts = [
            text.replace("turn", "burn") if index in wrong else text for index, text in enumerate(REFERENCES)
        ]
        errors = [int(index in wrong) for index in range(len(REFERENCES))]
        words = [len(text.split()) for text in REFERENCES]
        own = {"wer": 100.0 * len(wrong) / sum(words), "substitutions": len(wrong)}
        own |= {"deletions": 0, "insertions": 0, "reference_words": sum(words), "run": name}
        folder.mkdir(parents=True)
        save_report(folder / "report.json", [row_from({**row.to_dict(), **own, **config.pop("row", {})})])
        stored = {
            "splits": {
                "test_seen": {
                    "ids": [f"u{index}" for index in range(8)],
                    "references": REFERENCES,
                    "words": words,
                }
            },
            "files": {"model": {"test_seen": {"hypotheses": texts, "errors": errors}}},
        }
        (folder / "utterances.json").write_text(json.dumps(stored))
        settings = {"model": {"class_path": "qat.models.CRDNNModule"}, "wandb": {"group": group}, **config}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        (folder / "wandb_id").write_text(f"id-{name}\n")
        return folder

    return make_run
