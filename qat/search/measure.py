"""The measurements of a search: what each candidate costs, and what each unit loses by it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from qat.runtime.attention_export import export
from qat.search.candidates import Candidate, all_candidates
from qat.search.cost import Costs, constant_bytes, profile
from qat.search.models import enable_alone_, uniform
from qat.search.sensitivity import loss_of
from qat.search.workbench import Workbench
from qat.system.ranks import gather_from_all, on_first_rank, rank_and_world

UNREST = 0.25  # from which on times are doubtful


def say(line: str) -> None:
    """Print what a search is at, on the first rank."""
    if rank_and_world()[0] == 0:
        print(f"search: {line}", flush=True)


def measure_costs(work: Workbench) -> str:
    """Export the model once for each kernel, all layers on it that can, and time the nodes; the line to print."""
    started = time.perf_counter()
    every = kernels_of(work)
    kernels = {name: candidate for name, candidate in every.items() if name not in work.store.costs}
    if not kernels:
        return f"costs of {len(every)} kernels: measured before"
    assert work.histograms  # ranks calibrate together, before the first one works alone
    found = on_first_rank(lambda: costs_of(kernels, work))
    work.store.costs |= found
    work.store.write()
    whole = ", ".join(f"{name} {sum(costs.ms.values()):.1f} ms" for name, costs in found.items())
    return f"costs of {len(kernels)} kernels ({whole} an utterance) in {time.perf_counter() - started:.0f} s"


def costs_of(kernels: Mapping[str, Candidate], work: Workbench) -> dict[str, Costs]:
    """Export the model on each kernel, time the files in turns and count their bytes: kernel -> costs."""
    files: dict[str, Path] = {}
    for name, candidate in kernels.items():
        module = work.module if candidate.is_float else work.quantized(uniform(work.units, candidate))
        place = work.folder / name.replace(" ", "_")
        files[name] = export(module, place, "float" if candidate.is_float else "integer").path
    found = profile(files, work.signals, work.layers, work.options.threads)
    for name, path in files.items():
        found[name].bytes = constant_bytes(path, work.layers)
    return found


def unrest_line(work: Workbench) -> str:
    """What is said of times that were taken on a busy machine; "" of a quiet one."""
    if work.store.unrest < UNREST:
        return ""
    return (
        "the machine was busy when layers were timed: half of the runs took over "
        f"{100 * work.store.unrest:.0f} % longer than the shortest; the choice may be wrong, "
        "search again on a quiet machine (remove search.json before)"
    )


def kernels_of(work: Workbench) -> dict[str, Candidate]:
    """Kernel -> a candidate that it computes, of those that any unit can take."""
    possible = {item for unit in work.units for item in unit.candidates}
    found: dict[str, Candidate] = {}
    for item in all_candidates({8, *work.options.bits}):
        if item in possible:
            found.setdefault(item.kernel, item)
    return found


def measure_losses(work: Workbench) -> str:
    """Quantize each unit alone by each candidate that is worth trying, on whichever rank; the line to print."""
    started, count = time.perf_counter(), 0
    rank, world = rank_and_world()
    for candidate in all_candidates(work.options.bits):
        units = [unit for unit in work.units if candidate in work.worth_trying(unit)]
        missing = [unit for unit in units if work.store.loss(unit.name, candidate.name) is None]
        if not missing:
            continue
        module = work.quantized({**uniform(work.units, Candidate()), **{u.name: candidate for u in missing}})
        count += len(missing)
        for turn in range(0, len(missing), world):
            mine, found = missing[turn + rank : turn + rank + 1], dict[str, float]()
            for unit in mine:
                enable_alone_(module, unit.layers)
                found[unit.name] = loss_of(module, work.reference)
            for part in gather_from_all(found):
                for name, loss in part.items():
                    work.store.add_loss(name, candidate.name, loss)
            work.store.write()
        say(f"{candidate.name}: {len(missing)} units alone")
    known = sum(map(len, work.store.losses.values())) - count
    return (
        f"divergences of {count} candidates ({known} known before) on {len(work.held_out)} held-out utterances "
        f"in {time.perf_counter() - started:.0f} s"
    )
