"""Drawing some of an utterance's positions: a layer with many contributes a sample to AdaRound's moments."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 512  # positions of one utterance that a layer contributes at most


def drawn(count: int, generator: torch.Generator) -> Tensor:
    """`ROWS` of `count` positions in order, on the CPU, drawn without replacement; all where there are no more."""
    if count <= ROWS:
        return torch.arange(count, device="cpu")
    return torch.randperm(count, generator=generator, device="cpu")[:ROWS].sort().values


def sample(rows: Tensor, generator: torch.Generator) -> Tensor:
    """At most `ROWS` of `(G, N, I)`, drawn without replacement."""
    if rows.shape[1] <= ROWS:
        return rows
    return rows[:, drawn(rows.shape[1], generator).to(rows.device)]
