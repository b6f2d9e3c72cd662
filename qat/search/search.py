"""A search from its beginning to its files: recipe, measurements, picture."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from datamodules.base import SpeechDataModule
from qat.evaluation.graphs import size_mb
from qat.models.ctc import CTCModule
from qat.models.float_start import find_start
from qat.models.loading import load_float, load_module
from qat.runs import PARETO_FILE, RECIPE_FILE, sha256_of_checkpoint
from qat.runtime.attention_export import export
from qat.runtime.latency import measure_latency
from qat.search.candidates import all_candidates
from qat.search.choice import Solution, pareto, sum_of
from qat.search.figure import draw_pareto
from qat.search.measure import UNREST, measure_costs, measure_losses, say, unrest_line
from qat.search.options import SearchOptions
from qat.search.proof import Proof, Prover, Verified, prove, quantized_units
from qat.search.recipe_file import recipe_text, write_recipe
from qat.search.sealed import sealed
from qat.search.store import FILE, Store
from qat.search.workbench import Workbench
from qat.system.errors import UserError
from qat.system.hardware import processor
from qat.system.provenance import command, sources_sha256, versions
from qat.system.ranks import on_first_rank

TIMED = 20  # runs of the chosen file and of the float file, in turns


def float_of(checkpoint: Path, config: dict[str, Any]) -> tuple[CTCModule, Path]:
    """The float model that a search begins from, and its file: a quantized run's float start.

    Raises:
        UserError: the run is quantized and its float start is gone.
    """
    module, source = load_module(checkpoint), checkpoint
    if module.recipe.active:
        start = find_start(checkpoint, config)
        if start is None:
            raise UserError(
                f"{checkpoint}: must be a float model, or a run whose float start is on this machine"
            )
        print(f"search: begins from the float start {start}", flush=True)
        module, source = load_float(start), start
    return module, source


def search(
    checkpoint: Path, folder: Path, data: SpeechDataModule, config: dict[str, Any], options: SearchOptions
) -> Path:
    """Find a recipe; writes `recipe.yaml`, `search.json` and `pareto.png`.

    Measurements that lie in the folder and were made of the same are taken from there. Ranks of a process group share
    the measurements of divergences, and come to the same recipe.

    Args:
        checkpoint: of a float model, or of a run that began from one.
        folder: for the files; made.
        data: train and dev are read.
        config: of the run; names the float start.
        options: what is asked.

    Returns:
        The recipe's file.

    Raises:
        UserError: see `float_of`, `draw` and `prove`.
    """
    started = time.perf_counter()
    module, source = float_of(checkpoint, config)
    folder.mkdir(parents=True, exist_ok=True)
    with sealed(data), tempfile.TemporaryDirectory() as work_folder:
        store = on_first_rank(lambda: Store.open(folder / FILE, made_of(source, data, options)))
        work = Workbench(module, data, options, store, Path(work_folder))
        say(f"{len(work.units)} units of {len(work.layers)} layers")
        for measured in (measure_costs, unrest_line, measure_losses):
            if line := measured(work):
                say(line)
        place = work.folder / "chosen"
        float_file = on_first_rank(lambda: export(module, work.folder / "reference", "float").path)
        found, proof, rounds = prove(work, Prover(work, float_file), place)
        file = place.with_suffix(float_file.suffix)
        latency = on_first_rank(
            lambda: measure_latency(float_file, file, work.signals, options.threads, repeats=TIMED)
        )
        store.result = on_first_rank(lambda: result_of(work, found, proof, file))
        store.result |= {"rounds": rounds, "latency": latency, "command": command(sys.argv)}
        store.result["duration_s"] = round(time.perf_counter() - started, 1)
        on_first_rank(lambda: write_files(folder, work, found))
    for line in head_of(store.result):
        say(line)
    say(f"{folder / RECIPE_FILE}, {folder / FILE}, {folder / PARETO_FILE}")
    return folder / RECIPE_FILE


def made_of(source: Path, data: SpeechDataModule, options: SearchOptions) -> dict[str, Any]:
    """What the measurements depend on."""
    return {
        "checkpoint_sha256": sha256_of_checkpoint(source),
        "train": data.split_fingerprint("train"),
        "dev": data.split_fingerprint("dev"),
        "options": options.measured_by(),
        "device": processor(),
        "versions": versions(),
        "sources_sha256": sources_sha256(),
    }


def result_of(work: Workbench, found: Verified, proof: Proof, file: Path) -> dict[str, Any]:
    """What was chosen and what is known of it, as builtins."""
    solution, (rest_ms, rest_bytes) = found.solution, work.rest
    return {
        "budget": work.options.budget,
        "limit": work.options.limit,
        "choice": dict(solution.choice),
        "quantized_units": quantized_units(solution),
        "units": len(work.units),
        "loss": found.loss,
        "loss_summed": solution.loss,
        "ms_expected": solution.ms + rest_ms,
        "bytes_expected": solution.bytes + rest_bytes,
        "size_mb": size_mb(file),
        "dev": vars(proof),
        "dev_words": str(proof),
        "calibration_utterances": len(work.calibrating),
        "held_out_utterances": len(work.held_out),
        "unrest": work.store.unrest,
        "pareto": [vars(item) for item in pareto(work.prices())],
    }


def head_of(result: dict[str, Any]) -> list[str]:
    """What a search found, in a few lines."""
    latency = result["latency"]
    asked = f"{result['budget']} {result['limit']:g}" if result["limit"] else "no loss that dev shows"
    times = [latency[side]["latency_ms"]["p50"] for side in ("integer", "float")]
    busy = result.get("unrest", 0.0) >= UNREST
    return [
        *(["layers were timed on a busy machine: the choice may be wrong"] if busy else []),
        f"asked for {asked}; {result['quantized_units']} of {result['units']} units are quantized",
        f"{result['dev_words']}; divergence {result['loss']:.1e} nats per frame",
        f"{latency['speedup']:.2f} times as fast as float (p50 {times[0]:.1f} and {times[1]:.1f} ms, "
        f"{latency['engine']}, {latency['threads']} thread(s), {latency['device']}), {result['size_mb']:.2f} MB",
    ]


def write_files(folder: Path, work: Workbench, found: Verified) -> None:
    """Recipe, measurements and picture."""
    prices, choice = work.prices(), work.choice_of(found.solution.choice)
    head = [
        *head_of(work.store.result),
        f"{work.store.result['command']}",
        "loss: nats per frame, of the layer alone",
    ]
    write_recipe(folder / RECIPE_FILE, recipe_text(work.recipe(choice), work.units, choice, prices, head))
    work.store.write()
    draw_pareto(folder / PARETO_FILE, pareto(prices), uniform_choices(work), found.solution, work.rest[0])


def uniform_choices(work: Workbench) -> dict[str, Solution]:
    """One candidate for all units that know it, the others float: what a preset would do."""
    prices, found = work.prices(), {}
    for item in all_candidates(work.options.bits):
        choice = {unit: item.name if item.name in known else "float" for unit, known in prices.items()}
        if item.is_float or item.name in choice.values():
            found[item.name] = sum_of(prices, choice)
    return found
