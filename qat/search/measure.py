"""The measurements of a search: what each candidate costs, and what each unit loses by it."""

from __future__ import annotations

import time

from qat.runtime.export import export_onnx
from qat.search.candidates import Candidate, all_candidates
from qat.search.cost import Costs, constant_bytes, profile
from qat.search.models import enable_alone_, uniform
from qat.search.sensitivity import loss_of
from qat.search.workbench import Workbench


def measure_costs(work: Workbench) -> str:
    """Export the model once for each kernel, all layers on it that can, and time the nodes; the line to print."""
    started = time.perf_counter()
    every = kernels_of(work)
    kernels = {name: candidate for name, candidate in every.items() if name not in work.store.costs}
    if not kernels:
        return f"costs of {len(every)} kernels: measured before"
    files = {}
    for name, candidate in kernels.items():
        files[name] = work.folder / f"{name.replace(' ', '_')}.onnx"
        module = work.module if candidate.is_float else work.quantized(uniform(work.units, candidate))
        export_onnx(module, files[name], "float" if candidate.is_float else "integer")
    times = profile(files, work.signals, work.layers, work.options.threads)
    for name, path in files.items():
        work.store.costs[name] = Costs(times[name], constant_bytes(path, work.layers))
    work.store.write()
    whole = ", ".join(f"{name} {sum(times[name].values()):.1f} ms" for name in files)
    return f"costs of {len(files)} kernels ({whole} an utterance) in {time.perf_counter() - started:.0f} s"


def kernels_of(work: Workbench) -> dict[str, Candidate]:
    """Kernel -> a candidate that it computes, of those that any unit can take."""
    possible = {item for unit in work.units for item in unit.candidates}
    found: dict[str, Candidate] = {}
    for item in all_candidates({8, *work.options.bits}):
        if item in possible:
            found.setdefault(item.kernel, item)
    return found


def measure_losses(work: Workbench) -> str:
    """Quantize each unit alone by each candidate that is worth trying; the line to print."""
    started, count = time.perf_counter(), 0
    for candidate in all_candidates(work.options.bits):
        units = [unit for unit in work.units if candidate in work.worth_trying(unit)]
        missing = [unit for unit in units if work.store.loss(unit.name, candidate.name) is None]
        if not missing:
            continue
        module = work.quantized({**uniform(work.units, Candidate()), **{u.name: candidate for u in missing}})
        for unit in missing:
            enable_alone_(module, unit.layers)
            work.store.add_loss(unit.name, candidate.name, loss_of(module, work.reference))
            count += 1
        print(f"search: {candidate.name}: {len(missing)} units alone", flush=True)
    known = sum(map(len, work.store.losses.values())) - count
    return (
        f"divergences of {count} candidates ({known} known before) on {len(work.held_out)} held-out utterances "
        f"in {time.perf_counter() - started:.0f} s"
    )
