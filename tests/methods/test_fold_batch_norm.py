"""Folding the BatchNorms of a whole model."""

from __future__ import annotations

from torch import nn

from qat.methods.fold_batch_norm import fold_and_check
from tests.conftest import build


def test_folding_keeps_the_float_output_and_counts(kind: str) -> None:
    model = build(kind)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    line = fold_and_check(model)
    assert line.startswith("folded 2 of 2" if kind == "crdnn" else "folded 0 of 0")
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules())
