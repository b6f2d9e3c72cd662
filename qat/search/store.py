"""The measurements of a search, kept as they come, so that a search that was cut off goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qat.search.cost import Costs
from qat.system.files import replacing, write_text
from qat.system.ranks import rank_and_world

FILE = "search.json"


@dataclass
class Store:
    """What was measured of one model on one machine.

    Args:
        path: of the JSON file.
        made_of: what the measurements depend on.
        costs: kernel -> costs of every layer.
        losses: unit -> candidate -> divergence of the model in which it alone is quantized, nats per frame.
        result: what was chosen and why, once it is known.
    """

    path: Path
    made_of: Mapping[str, Any]
    costs: dict[str, Costs] = field(default_factory=dict)
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, made_of: Mapping[str, Any]) -> Store:
        """What a file holds, if it was made of the same; else an empty store."""
        try:
            found = json.loads(path.read_text())
            if found["made_of"] == json.loads(json.dumps(made_of)):
                costs = {kernel: Costs(**item) for kernel, item in found["costs"].items()}
                return cls(path, made_of, costs, found["losses"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or damaged: measured again
        return cls(path, made_of)

    @property
    def unrest(self) -> float:
        """The largest of the costs."""
        return max(costs.unrest for costs in self.costs.values())

    def loss(self, unit: str, candidate: str) -> float | None:
        """A divergence, if it is known."""
        return self.losses.get(unit, {}).get(candidate)

    def add_loss(self, unit: str, candidate: str, loss: float) -> None:
        """Note a divergence."""
        self.losses.setdefault(unit, {})[candidate] = loss

    def write(self) -> None:
        """Write the file on the first rank, whole or not at all."""
        if rank_and_world()[0]:
            return
        found = {
            "made_of": self.made_of,
            "costs": {kernel: vars(item) for kernel, item in self.costs.items()},
            "losses": self.losses,
            "result": self.result,
        }
        write_text(self.path, json.dumps(found, indent=1) + "\n")


def read_tensors(path: Path, made_of: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors that `write_tensors` left; None where there are none, or of something else."""
    try:
        found = torch.load(path, weights_only=True)
        if found["made_of"] == json.dumps(made_of):
            return dict(found["tensors"])
    except Exception:  # a damaged file may fail in any way: measured again
        pass
    return None


def write_tensors(tensors: Mapping[str, Tensor], path: Path, made_of: Mapping[str, Any]) -> None:
    """Keep tensors in a file, whole or not at all."""
    with replacing(path) as part:
        torch.save({"made_of": json.dumps(made_of), "tensors": dict(tensors)}, part)
