"""What the graphs of an exported model hold: nodes, constants and bytes, of one file or of a folder of several."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qat.evaluation import guards
from qat.evaluation.measurement import Nodes
from qat.runtime.formats import ProviderName
from qat.runtime.graph import count_nodes, optimised_graph
from qat.runtime.manifest import MANIFEST


def graphs_of(file: Path) -> list[Path]:
    """The graphs of an exported file or folder."""
    return sorted(file.glob("*.onnx")) if file.is_dir() else [file]


def exports_in(folder: Path) -> list[Path]:
    """The exported files and folders of a run, by name."""
    folders = {path.parent for path in folder.glob("*/*.onnx") if not path.parent.name.startswith(".")}
    return sorted([*folder.glob("*.onnx"), *(path for path in folders if (path / MANIFEST).is_file())])


def nodes_of(file: Path, provider: ProviderName = "cpu") -> Nodes:
    """Nodes of all graphs as ONNX Runtime optimises them for a provider.

    A name that two graphs share gets its graph's name before it.
    """
    integer: dict[str, str] = {}
    in_float: dict[str, str] = {}
    weights: dict[str, str] = {}
    for path in graphs_of(file):
        graph = optimised_graph(path, provider)
        counts = count_nodes(graph)
        add_(integer, counts.integer, path.stem)
        add_(in_float, counts.float_compute, path.stem)
        add_(weights, guards.float_compute_weights(graph), path.stem)
    return Nodes(integer, in_float, weights)


def add_(nodes: dict[str, str], more: dict[str, str], graph: str) -> None:
    """Add nodes of a graph to those of others."""
    nodes |= {f"{graph}/{name}" if name in nodes else name: value for name, value in more.items()}


def constants_sha256(file: Path) -> str:
    """Hash of all constants of an exported file or folder."""
    graphs = graphs_of(file)
    if graphs == [file]:
        return guards.initializers_sha256(file)
    lines = [f"{path.name} {guards.initializers_sha256(path)}" for path in graphs]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def size_mb(file: Path) -> float:
    """Bytes / 1e6 of a file, or of all files below a folder."""
    files = [file] if file.is_file() else [path for path in file.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / 1e6
