"""A tiny model on the search's bench, with costs as if they had been measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules.base import SpeechDataModule
from qat.models.ctc import CTCModule
from qat.search.cost import REST, Costs
from qat.search.options import SearchOptions
from qat.search.store import Store
from qat.search.workbench import Workbench
from tests.conftest import build


def decided(kind: str) -> CTCModule:
    """A tiny model whose posteriors are far from uniform, so that quantization moves them."""
    module = build(kind).eval()
    head = module.head if kind == "crdnn" else module.hf.lm_head
    with torch.no_grad():
        head.weight.mul_(30)
    return module


@pytest.fixture
def bench(tmp_path: Path, tiny_data: SpeechDataModule) -> Callable[..., Workbench]:
    """Makes a bench of a tiny Wav2Vec2 whose costs are given: static is faster than by frame, and that than float."""

    def make(options: SearchOptions | None = None) -> Workbench:
        store = Store(tmp_path / "search.json", {})
        work = Workbench(decided("wav2vec2"), tiny_data, options or SearchOptions(), store, tmp_path)
        for kernel, ms in {
            "float": 3.0,
            "frame 8": 2.0,
            "static 8": 1.0,
            "static 4": 1.5,
            "alone 8": 3.0,
        }.items():
            times = {**dict.fromkeys(work.layers, ms), REST: 5.0}
            sizes = {name: 4 * count if kernel == "float" else count for name, count in work.weights.items()}
            store.costs[kernel] = Costs(times, {**sizes, REST: 1000})
        return work

    return make
