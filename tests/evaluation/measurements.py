"""Measurements made by hand: a float model and an integer one on two splits of two utterances."""

from __future__ import annotations

from typing import Any

from qat.evaluation.error_rates import UtteranceErrors, count_utterances
from qat.evaluation.measurement import Conditions, Measurement, Nodes, Timing

REFERENCES = ["turn on the light", "call home now"]
LATENCY = {"p50": 24.0, "p95": 26.0}


def transcribed(*texts: str) -> list[UtteranceErrors]:
    """Errors of both utterances, given their transcripts."""
    return count_utterances(["a", "b"], REFERENCES, list(texts), [1.5, 2.5])


def integer_measurement(**changes: Any) -> Measurement:
    """An 8-bit model with one word error per split."""
    values: dict[str, Any] = {
        "name": "model",
        "model": "CRDNN",
        "method": "deterministic",
        "precision": "integer",
        "recipe": {"preset": "deterministic", "weight_bits": 8, "rounding": "nearest"},
        "weight_bits": 8,
        "activation_bits": 8,
        "checkpoint_sha256": "c" * 64,
        "constants_sha256": "e" * 64,
        "size_mb": 1.4,
        "packed": 0,
        "nodes": Nodes({"rnn/LSTM": "DynamicQuantizeLSTM"}, {}, {}),
        "coverage": {"weights": 1.0, "macs": 0.9, "layers_quantized": 1, "layers_total": 1, "skipped": []},
        "utterances": {
            "test_seen": transcribed("turn on a light", "call home now"),
            "test_real": transcribed("turn on the light", "call home"),
        },
        "parity": {
            split: {"max_abs_logit": 0.1, "argmax_disagreement": 0.0, "wer_fake": 14.0, "wer_integer": 14.0}
            for split in ("test_seen", "test_real")
        },
        "timing": Timing(
            "onnxruntime 1.32.0", "CPUExecutionProvider", "cpu", {"p50": 12.0, "p95": 13.0}, 0.01, 80.0, LATENCY, 2.0
        ),
    }  # fmt: skip
    return Measurement(**{**values, **changes})


def float_measurement(**changes: Any) -> Measurement:
    """The float model that it is compared with, without an error."""
    values: dict[str, Any] = {
        "name": "float",
        "method": "float",
        "precision": "float",
        "recipe": {"preset": "off", "weight_bits": None, "rounding": "nearest"},
        "weight_bits": None,
        "activation_bits": None,
        "checkpoint_sha256": "d" * 64,
        "constants_sha256": "",
        "size_mb": 5.2,
        "nodes": Nodes({}, {"rnn/LSTM": "LSTM"}, {"rnn/LSTM": "rnn.weight"}),
        "coverage": None,
        "utterances": {split: transcribed(*REFERENCES) for split in ("test_seen", "test_real")},
        "parity": {},
        "timing": Timing("onnxruntime 1.32.0", "CPUExecutionProvider", "cpu", LATENCY, 0.02, 120.0),
    }
    return integer_measurement(**{**values, **changes})


def conditions(**changes: Any) -> Conditions:
    """What both share."""
    values: dict[str, Any] = {
        "run": "demo",
        "dataset": "mini",
        "seed": 1,
        "bootstrap_seed": 0,
        "threads": 1,
        "batch_size": 1,
        "warmup": 3,
        "repeats": 20,
        "config_sha256": "a" * 64,
        "provenance": {
            "git_commit": "b" * 40,
            "versions": {"python": "3.11"},
            "command": "python train.py",
            "started_at": "2026-11-22T23:00:00+00:00",
            "duration_s": 1.0,
        },
    }
    return Conditions(**{**values, **changes})
