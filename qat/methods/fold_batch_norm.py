"""BatchNorm folding of a whole model, with the float equality check."""

from __future__ import annotations

import torch

from qat.layers.base import device_of
from qat.models.ctc import CTCModule
from qat.numerics.precision import full_precision

TOLERANCE = 1e-5  # relative to the largest logit; float32 rounding of one more product


@torch.no_grad()
@full_precision()
def fold_and_check(module: CTCModule) -> str:
    """Fold all foldable BatchNorms of a module whose quantizers are off; return the line to print.

    Raises:
        RuntimeError: the float output changed by more than `TOLERANCE` of its largest logit.
    """
    pairs = len(list(module.batch_norm_pairs()))
    if not pairs:
        return "folded 0 of 0 BatchNorm (this model has none)"
    device = device_of(module)  # `module.device` is where the trainer will move the weights to
    generator = torch.Generator("cpu").manual_seed(0)
    signal = 0.1 * torch.randn(2, 16_000, generator=generator, device="cpu").to(device)
    lengths = torch.tensor([16_000, 12_000], device="cpu")
    was_training = module.training
    module.eval()
    before = module(signal, lengths)[0]
    names = module.fold_batch_norm()
    difference = (module(signal, lengths)[0] - before).abs().max() / before.abs().max().clamp(min=1e-12)
    module.train(was_training)
    if difference > TOLERANCE:
        raise RuntimeError(
            f"BatchNorm folding changed the float output by {difference:.1e} (allowed {TOLERANCE})"
        )
    return f"folded {len(names)} of {pairs} BatchNorm (float output unchanged within {difference:.0e})"
