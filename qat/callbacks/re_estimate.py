"""BatchNorm statistics measured anew behind quantized layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datamodules.base import SpeechDataModule
from qat.layers import record_inputs
from qat.models.ctc import CTCModule
from qat.numerics.statistics import Statistics

BATCH_NORM = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def re_estimate_batch_norm_(module: CTCModule, data: SpeechDataModule) -> str:
    """Set running mean and variance to those of the calibration utterances, in place (Nagel 2022, arXiv 2203.11086).

    Training averages statistics of weights that moved on meanwhile. Norms follow in the order of their calls, each
    behind those already done; utterances are read one at a time, so that no padding counts.

    Returns:
        The line to print.
    """
    recipe, was_training = module.recipe, module.training
    utterances = data.calibration_utterances(recipe.calibration_utterances, recipe.seed)
    batches = [batch.to(module.device) for batch in data.loader(utterances)]
    module.eval()
    names = [name for name, item in module.named_modules() if isinstance(item, BATCH_NORM)]
    with record_inputs(module, names, stop=False) as recorded:
        module(batches[0].signal, batches[0].lengths)
    order = list(dict.fromkeys(name for name, _ in recorded.calls))
    for name in order:
        norm = module.get_submodule(name)
        assert isinstance(norm, BATCH_NORM) and norm.running_mean is not None and norm.running_var is not None
        total: Statistics | None = None
        for batch in batches:
            with record_inputs(module, [name]) as recorded:
                module(batch.signal, batch.lengths)
            for _, x in recorded.calls:
                found = Statistics.of(frames_of(x))
                total = found if total is None else total.merge(found)
        assert total is not None
        norm.running_mean.copy_(total.mean)
        norm.running_var.copy_(total.variance)
    module.train(was_training)
    return f"re-estimated {len(order)} BatchNorm on {len(utterances)} training utterances"


def frames_of(x: Tensor) -> Tensor:
    """A BatchNorm's input `(N, C, ...)` as `(frames, C)`."""
    return x.transpose(0, 1).flatten(1).t()
