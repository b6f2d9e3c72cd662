"""Post-training calibration of all ranges from training speech."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch
from datamodules.utterance import Utterance
from qat.layers.base import device_of
from qat.layers.bypass import check_all_called, watch_calls
from qat.layers.observer import Observer
from qat.layers.state import calibrate_weights_, finish_calibration_, set_observing_
from qat.layers.swap import quantizers
from qat.models.ctc import CTCModule
from qat.numerics.histogram import Histogram
from qat.numerics.precision import full_precision
from qat.system.ranks import gather_from_all, rank_and_world


@torch.no_grad()
@full_precision()
def calibrate_(module: CTCModule, data: SpeechDataModule) -> str:
    """Calibrate in eval mode, one utterance at a time so that no padding and no batch mix can shift a range.

    Ranks share the utterances and merge what they saw, so that all get the bit-identical scales of a single process.
    Where no activation has a range to choose, one utterance shows that the model calls every quantized layer.

    Returns:
        The line to print.

    Raises:
        UserError: a quantized layer that the model does not call, or that saw NaN or infinity; names it.
    """
    started = time.perf_counter()
    recipe = module.recipe
    has_ranges = any(isinstance(item, Observer) for item in module.modules())
    count = recipe.calibration_utterances if has_ranges else 1
    utterances = data.calibration_utterances(count, recipe.seed)
    was_training = module.training
    module.eval()
    set_observing_(module, True)
    with watch_calls(module) as called:
        for batch in calibration_batches(module, data, utterances):
            module.posteriors(batch)
    set_observing_(module, False)
    check_all_called(module, set().union(*gather_from_all(called)))
    merge_observers_(module)
    calibrate_weights_(module)
    finish_calibration_(module)
    module.quantize()
    module.train(was_training)
    seconds = sum(utterance.duration_s for utterance in utterances)
    if not has_ranges:
        return f"chose the ranges of all weights ({recipe.weight_observer}); activations take theirs when they run"
    return (
        f"calibrated {sum(1 for _ in quantizers(module))} quantizers on {len(utterances)} training utterances "
        f"({seconds / 60:.1f} min) in {time.perf_counter() - started:.1f} s: weights {recipe.weight_observer}, "
        f"activations {recipe.activation_observer}"
    )


def calibration_batches(
    module: CTCModule, data: SpeechDataModule, utterances: Sequence[Utterance]
) -> Iterator[Batch]:
    """This rank's part of the utterances, one a batch, on the module's device."""
    for batch in data.loader(utterances, shard=True):
        yield batch.to(device_of(module))


def is_quantized(module: CTCModule) -> bool:
    """Whether the quantizers are calibrated and on."""
    return any(quantizer.is_enabled for _, quantizer in quantizers(module))


def merge_observers_(module: nn.Module) -> None:
    """Give the observers of all ranks the sum of what they saw: whole numbers, whose order does not matter."""
    mine = [item.histogram for item in module.modules() if isinstance(item, Observer)]
    every = gather_from_all([[part.cpu() for part in vars(histogram).values()] for histogram in mine])
    for theirs in every[: rank_and_world()[0]] + every[rank_and_world()[0] + 1 :]:
        for histogram, state in zip(mine, theirs, strict=True):
            histogram.merge_(Histogram(*(part.to(histogram.counts.device) for part in state)))
