"""BatchNorm statistics measured anew after quantized layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch
from qat.layers.base import device_of
from qat.layers.recording import record_inputs
from qat.models.ctc import CTCModule
from qat.numerics.precision import full_precision
from qat.numerics.statistics import Statistics
from qat.system.ranks import in_chunks

BATCH_NORM = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
@full_precision()
def re_estimate_batch_norm_(module: CTCModule, data: SpeechDataModule) -> str:
    """Set running mean and variance to those of the calibration utterances, in place (Nagel 2022, arXiv 2203.11086).

    Training averages statistics of weights that moved on meanwhile. Norms follow in the order of their calls, each
    after those already done; utterances are read one at a time, so that no padding counts. Ranks share them.

    Returns:
        The line to print.
    """
    recipe, was_training = module.recipe, module.training
    utterances = data.calibration_utterances(recipe.calibration_utterances, recipe.seed)
    batches = [batch.to(device_of(module)) for batch in data.loader(utterances)]
    module.eval()
    names = [name for name, item in module.named_modules() if isinstance(item, BATCH_NORM)]
    with record_inputs(module, names, stop=False) as recorded:
        module.posteriors(batches[0])
    order = list(dict.fromkeys(name for name, _ in recorded.calls))
    for name in order:
        norm = module.get_submodule(name)
        assert isinstance(norm, BATCH_NORM) and norm.running_mean is not None and norm.running_var is not None
        total: Statistics | None = None
        for part in in_chunks(len(batches), partial(statistics_of, module, name, batches)):
            total = part if total is None else total if part is None else total.merge(part)
        assert total is not None
        norm.running_mean.copy_(total.mean)
        norm.running_var.copy_(total.variance)
    module.train(was_training)
    return f"re-estimated {len(order)} BatchNorm on {len(utterances)} training utterances"


def statistics_of(
    module: CTCModule, name: str, batches: Sequence[Batch], numbers: Sequence[int]
) -> Statistics | None:
    """Of the input of the layer `name` over some utterances, on the CPU; None over none."""
    total: Statistics | None = None
    for number in numbers:
        with record_inputs(module, [name]) as recorded:
            module.posteriors(batches[number])
        for _, x in recorded.calls:
            found = Statistics.of(frames_of(x).cpu())
            total = found if total is None else total.merge(found)
    return total


def frames_of(x: Tensor) -> Tensor:
    """A BatchNorm's input `(N, C, ...)` as `(frames, C)`."""
    return x.transpose(0, 1).flatten(1).t()
