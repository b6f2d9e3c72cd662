"""What the float model and the quantized one make of the same utterances: inputs of the layers, and posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batch import Batch
from qat.layers.base import device_of
from qat.layers.recording import Recorded, execution_order, record_inputs
from qat.methods.reconstruction import LinearMap, Moments, linear_maps
from qat.models.ctc import CTCModule
from qat.models.distillation import frame_divergence
from qat.system.ranks import in_chunks, items_of_this_rank, rank_and_world

CHECKED = 32  # utterances that say whether a bias correction helps
CACHE_BYTES = 2 * 2**30  # of the float model's inputs


def sites(module: CTCModule, batch: Batch) -> list[list[LinearMap]]:
    """What is reconstructed together, in order: products of the same input; those with own inputs alone."""
    found: list[list[LinearMap]] = []
    for names in execution_order(module, lambda: module.posteriors(batch)):
        layers: list[Any] = [module.get_submodule(name) for name in names]
        maps = [item for name, layer in zip(names, layers, strict=True) for item in linear_maps(name, layer)]
        found += [[item] for item in maps if item.product.own_input]
        if shared := [item for item in maps if not item.product.own_input]:
            found.append(shared)
    return found


class FloatInputs:
    """What the float model multiplies in each map, for the utterances of this rank.

    The float model does not change, so its inputs are kept from one pass where they fit into `CACHE_BYTES`, and
    computed anew for each site where they do not.

    Args:
        reference: the float model.
        found: all sites; the maps of one read the same tensor.
        batches: one utterance each.
        seed: of the positions that are drawn where a layer has many.
    """

    def __init__(
        self, reference: CTCModule, found: Sequence[Sequence[LinearMap]], batches: Sequence[Batch], seed: int
    ) -> None:
        self.reference, self.batches, self.seed = reference, batches, seed
        names = [item.layer_name for maps in found for item in maps]
        with record_inputs(reference, names, stop=False) as recorded:
            reference.posteriors(batches[0])
        self.repeated = recorded.repeated
        self.maps = {item.name: item.of(reference) for maps in found for item in maps}
        firsts = [maps[0].name for maps in found]
        first = self.read(0, firsts)
        size = sum(rows.numel() * rows.element_size() for rows in first.values())
        numbers = items_of_this_rank(len(batches))
        self.posteriors: dict[int, Tensor] = {}
        self.kept: dict[int, dict[str, Tensor]] = {}
        if size * len(numbers) <= CACHE_BYTES:
            self.kept = {number: self.read(number, firsts) if number else first for number in numbers}

    def generator(self, number: int) -> torch.Generator:
        """Draws the positions of one utterance, the same for both models."""
        return torch.Generator("cpu").manual_seed(1_000_003 * self.seed + number)

    def read(self, number: int, chosen: Sequence[str]) -> dict[str, Tensor]:
        """Rows of the named maps for one utterance."""
        maps = [self.maps[name] for name in chosen]
        names = list(dict.fromkeys(item.layer_name for item in maps))
        batch = self.batches[number]
        with record_inputs(self.reference, names, stop=not self.repeats(names)) as recorded:
            self.reference.posteriors(batch)
        return {item.name: rows_of(item, recorded, False, self.generator(number)) for item in maps}

    def repeats(self, names: Sequence[str]) -> bool:
        """Whether one of the layers may be called more than once in a forward."""
        return not self.repeated.isdisjoint(names)

    def divergence(self, module: CTCModule, number: int) -> tuple[float, int]:
        """Sum over the frames of one utterance of KL(float posteriors || those of `module`), and how many frames."""
        batch = self.batches[number]
        if number not in self.posteriors:
            self.posteriors[number] = F.log_softmax(self.reference.posteriors(batch)[0].float(), -1)
        logits, frames = module.posteriors(batch)
        mean = frame_divergence(self.posteriors[number], logits, frames, labels=frames)
        return float(mean) * int(frames), int(frames)

    def rows(self, number: int, name: str) -> Tensor:
        """Rows of the first map of a site."""
        return self.kept[number][name] if self.kept else self.read(number, [name])[name]


def rows_of(
    item: LinearMap, recorded: Recorded, quantized: bool, generator: torch.Generator, name: str = ""
) -> Tensor:
    """Inputs of a product `(G, N, I)` out of all calls of its layer, or of `name`, which reads the same tensor."""
    calls = recorded.of(name or item.layer_name)
    return torch.cat([item.rows(x, quantized, generator) for x in calls], dim=1)


def divergence(module: CTCModule, floats: FloatInputs) -> float:
    """Mean over frames of KL(float posteriors || those of `module`), over `CHECKED` utterances, which ranks share."""
    count = min(CHECKED, len(floats.batches))
    parts = in_chunks(count, lambda numbers: [floats.divergence(module, number) for number in numbers])
    total, frames = 0.0, 0
    for value, length in (pair for part in parts for pair in part):
        total, frames = total + value, frames + length
    return total / max(frames, 1)


def collect(module: CTCModule, floats: FloatInputs, maps: Sequence[LinearMap]) -> dict[str, Moments]:
    """Moments of the inputs of `maps`, all called with the same tensor, over all utterances, which ranks share.

    Args:
        module: quantized; the layers before the maps are done.
        floats: the float model's side, with the utterances.
        maps: of one site; they share their rows.
    """
    total = {item.name: Moments() for item in maps}
    for part in in_chunks(len(floats.batches), lambda numbers: moments_of(module, floats, maps, numbers)):
        for name, moments in part.items():
            total[name].merge(moments.to(device_of(module)))
    return total


def moments_of(
    module: CTCModule, floats: FloatInputs, maps: Sequence[LinearMap], numbers: Sequence[int]
) -> dict[str, Moments]:
    """Moments over some of the utterances; on the CPU where they go to other ranks."""
    found, first = {item.name: Moments() for item in maps}, maps[0]
    for number in numbers:
        batch = floats.batches[number]
        repeats = floats.repeats([first.layer_name])
        with record_inputs(module, [first.layer_name], stop=not repeats) as recorded:
            module.posteriors(batch)
        reference = floats.rows(number, first.name)
        for item in maps:
            rows = rows_of(item, recorded, True, floats.generator(number), first.layer_name)
            found[item.name].add(rows, reference, item.frame_weights(reference))
    shared = rank_and_world()[1] > 1
    return {name: moments.to("cpu") if shared else moments for name, moments in found.items()}
