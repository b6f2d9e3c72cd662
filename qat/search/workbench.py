"""What a search works on: the float model, the utterances it may see, and what it has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from datamodules.base import SpeechDataModule
from qat.evaluation.measure import length_mix
from qat.evaluation.parity import signal_of
from qat.evaluation.transcripts import Split
from qat.layer_recipe import FourBitLinear
from qat.layers.coverage import weight_count
from qat.layers.swap import weighted_layers
from qat.methods.equalize import equalize_and_check
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from qat.search.candidates import FLOAT, KERNEL_BITS, Candidate, Unit, all_candidates, units_of
from qat.search.choice import SIZE_WORTH, Price, Prices
from qat.search.cost import REST
from qat.search.models import (
    Choice,
    calibrate_from_,
    draw,
    largest_channels,
    observed,
    recipe_of,
    uneven_layers,
    uniform,
    with_recipe,
)
from qat.search.options import SearchOptions
from qat.search.sensitivity import Reference, reference_of
from qat.search.store import Store, read_tensors, write_tensors
from qat.system.errors import UserError
from qat.system.ranks import on_first_rank, rank_and_world

STATIC = Candidate(KERNEL_BITS[0], "static")  # whose quantizers observe
PROFILED = 8  # utterances that are timed


class Workbench:
    """What a search works on; what takes long is made when it is first asked for.

    Args:
        module: float, in eval mode.
        data: with train and dev.
        options: of the search.
        store: of measurements.
        folder: for exported files.

    Raises:
        UserError: too few utterances, or no layer that can be quantized.
    """

    def __init__(
        self, module: CTCModule, data: SpeechDataModule, options: SearchOptions, store: Store, folder: Path
    ) -> None:
        self.module, self.data, self.options, self.store, self.folder = module, data, options, store, folder
        self.calibrating, self.held_out = draw(data, options)
        folded = with_recipe(module, Recipe())  # as quantized models are: its pairs of layers are theirs
        self.largest = largest_channels(folded, data, self.calibrating)
        candidates = all_candidates({*options.bits, *KERNEL_BITS})
        self.units: list[Unit] = units_of(module, candidates, uneven_layers(folded, self.largest))
        if all(len(unit.candidates) == 1 for unit in self.units):
            raise UserError(f"search: {type(module).__name__} must have a layer that can be quantized")
        self.layers = [layer for unit in self.units for layer in unit.layers]
        self.equalized = dict[frozenset[str], Mapping[str, Tensor]]()  # units -> what quantizers saw

    @cached_property
    def reference(self) -> Reference:
        """The float model's posteriors of the utterances that are held out."""
        return reference_of(self.module, self.data, self.held_out)

    @cached_property
    def histograms(self) -> Mapping[str, Tensor]:
        """What static ranges are chosen from; kept beside the measurements."""
        path = self.store.path.with_suffix(".pt")
        kept = on_first_rank(lambda: read_tensors(path, self.store.made_of))
        if kept is None:
            kept = observed(with_recipe(self.module, self.recipe(uniform(self.units, STATIC))), self.data)
            if rank_and_world()[0] == 0:
                write_tensors(kept, path, self.store.made_of)
        return kept

    def histograms_of(self, choice: Choice) -> Mapping[str, Tensor]:
        """The same of a choice: where it evens out channels, other values are seen."""
        evened = frozenset(name for name, item in choice.items() if item.equalize)
        if not evened:
            return self.histograms
        if evened not in self.equalized:
            static = uniform(self.units, STATIC)
            static |= {
                name: choice[name] if static[name].is_float else replace(STATIC, equalize=True)
                for name in evened
            }
            self.equalized[evened] = observed(self.prepared(static), self.data)
        return self.equalized[evened]

    @cached_property
    def signals(self) -> Sequence[Any]:
        """Utterances of dev over its mix of lengths, `(S,)` each."""
        dev = Split("dev", self.data.utterances("dev"), "")
        return [signal_of(batch) for batch in self.data.loader(length_mix([dev], PROFILED))]

    @property
    def four_bit_linear(self) -> FourBitLinear:
        """The kernel of 4-bit linear layers that is faster here; the one on 4 bits until both are timed."""
        own, unpacked = (self.store.costs.get(f"static {bits}") for bits in reversed(KERNEL_BITS))
        if own is None or unpacked is None:
            return "matmul_nbits"
        linear = [name for name, layer in weighted_layers(self.module) if isinstance(layer, nn.Linear)]
        mine, other = (sum(costs.ms.get(name, 0.0) for name in linear) for costs in (own, unpacked))
        return "matmul_nbits" if mine < other else "integer"

    def recipe(self, choice: Choice) -> Recipe:
        """Of a choice."""
        return recipe_of(self.units, choice, self.options, len(self.calibrating), self.four_bit_linear)

    def quantized(self, choice: Choice) -> CTCModule:
        """The model of a choice, calibrated and switched on."""
        module = self.prepared(choice)
        calibrate_from_(module, self.histograms_of(choice))
        return module

    def prepared(self, choice: Choice) -> CTCModule:
        """The model of a choice before it is calibrated, its channels evened out as the choice says."""
        module = with_recipe(self.module, self.recipe(choice))
        if module.recipe.equalizes:
            equalize_and_check(module, self.data, self.largest)
        return module

    @cached_property
    def weights(self) -> dict[str, int]:
        """Layer -> how many elements its weights have."""
        return {name: weight_count(layer) for name, layer in weighted_layers(self.module)}

    # ---------------------------------------------------------------- prices
    def kernel_of(self, candidate: Candidate) -> str:
        """The file whose times are a candidate's."""
        packed = candidate.kernel == f"static {KERNEL_BITS[1]}" and self.four_bit_linear == "matmul_nbits"
        return (
            candidate.kernel if packed else candidate.kernel.replace(str(KERNEL_BITS[1]), str(KERNEL_BITS[0]))
        )

    def ms(self, unit: Unit, candidate: Candidate) -> float:
        """Of an utterance, in the layers of a unit.

        What belongs to no layer (reordering, activation functions that are fused or not) may take another time in a
        kernel's file than in the float one: the difference is charged to the layers by their share of the float time.
        """
        mine, base = self.store.costs[self.kernel_of(candidate)].ms, self.store.costs["float"].ms
        whole = sum(base.get(layer, 0.0) for layer in self.layers)
        extra = (mine.get(REST, 0.0) - base.get(REST, 0.0)) / max(whole, 1e-12)
        return sum(mine.get(layer, 0.0) + extra * base.get(layer, 0.0) for layer in unit.layers)

    def bytes(self, unit: Unit, candidate: Candidate) -> int:
        """Of the constants of a unit's layers."""
        return sum(self.layer_bytes(layer, candidate) for layer in unit.layers)

    def layer_bytes(self, layer: str, candidate: Candidate) -> int:
        """From the files; of bits that no file has, from the file of 8 bits and the count of weights."""
        costs, bits = self.store.costs, candidate.weight_bits
        if bits is None:
            return costs["float"].bytes.get(layer, 0)
        if (own := candidate.file_of(bits)) in costs and own == self.kernel_of(candidate):
            return costs[own].bytes.get(layer, 0)
        elements = self.weights[layer]
        return (
            costs[candidate.file_of(KERNEL_BITS[0])].bytes.get(layer, 0) - elements + -(-elements * bits // 8)
        )

    @property
    def rest(self) -> tuple[float, int]:
        """Milliseconds and bytes of what belongs to no layer."""
        costs = self.store.costs["float"]
        return costs.ms.get(REST, 0.0), costs.bytes.get(REST, 0)

    def prices(self) -> Prices:
        """Of every candidate whose loss is known."""
        found: dict[str, dict[str, Price]] = {}
        for unit in self.units:
            found[unit.name] = {}
            for item in unit.candidates:
                loss = 0.0 if item.is_float else self.store.loss(unit.name, item.name)
                if loss is not None:
                    price = Price(loss, self.ms(unit, item), self.bytes(unit, item))
                    found[unit.name][item.name] = price
        return found

    def choice_of(self, names: Mapping[str, str]) -> dict[str, Candidate]:
        """Candidates from their names."""
        known = {item.name: item for unit in self.units for item in unit.candidates}
        return {unit: known[name] for unit, name in names.items()}

    def worth(self, unit: Unit, candidate: Candidate) -> float:
        """What a candidate costs as the integer program weighs it: milliseconds, and bytes beside them."""
        costs = self.store.costs["float"]
        ms, size = (max(sum(part.values()), 1e-12) for part in (costs.ms, costs.bytes))
        return self.ms(unit, candidate) / ms + SIZE_WORTH * self.bytes(unit, candidate) / size

    def worth_trying(self, unit: Unit) -> list[Candidate]:
        """The candidates that can be part of the best choice, float aside.

        For a size those smaller than float; else those that are worth more than float, than the same with more bits,
        and than the same weights alone: all of these lose less.
        """
        found: list[Candidate] = []
        for item in unit.candidates:
            if item.weight_bits is None or item.weight_bits not in self.options.bits:
                continue
            if self.options.budget == "max_size_mb":
                useful = self.bytes(unit, item) < self.bytes(unit, FLOAT)
            else:
                same = (o for o in found if (o.activations, o.equalize) == (item.activations, item.equalize))
                better = [o for o in same if (o.weight_bits or 0) > item.weight_bits]
                alone = Candidate(item.weight_bits)
                better += [alone] if alone in unit.candidates and alone != item else []
                useful = all(self.worth(unit, item) < self.worth(unit, other) for other in [FLOAT, *better])
            found += [item] if useful else []
        return found
