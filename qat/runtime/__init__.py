"""From a trained module to a measured file: export, sessions, parity and latency."""

from __future__ import annotations

from importlib import import_module
from typing import Any

WHERE = {
    "ExportInfo": "export",
    "OnnxFbank": "frontend",
    "Session": "session",
    "check_parity": "parity",
    "export_onnx": "export",
    "measure_latency": "latency",
}
__all__ = list(WHERE)


def __getattr__(name: str) -> Any:
    """Import on first use: the latency worker must not load PyTorch, or its peak memory would be PyTorch's."""
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{WHERE[name]}"), name)
