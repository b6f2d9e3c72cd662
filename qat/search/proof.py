"""From budgets to a recipe that holds: the choice as a whole, and what dev says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qat.decoding.windows import WINDOW_S, WindowedRecogniser
from qat.evaluation.error_rates import UtteranceErrors, count_utterances, error_fields
from qat.evaluation.parity import signal_of
from qat.models.ctc import CTCModule
from qat.runtime.attention_export import export
from qat.runtime.attention_session import open_session
from qat.runtime.export import ExportInfo
from qat.search.choice import Solution, solve
from qat.search.measure import say
from qat.search.sensitivity import loss_of
from qat.search.workbench import Workbench
from qat.system.errors import UserError
from qat.system.ranks import on_first_rank

FIRST_BUDGET = 0.001  # nats per frame, where dev is to decide
TIGHTER = 0.5  # what is left of a budget with which dev shows a loss
ROUNDS = 8  # of budgets
AIM = 0.95  # of a budget, for the next correction
CORRECTIONS = 4  # of one budget, for what layers do together
SHOWN = 0.05  # p value from which on dev shows nothing


@dataclass(frozen=True)
class Verified:
    """A choice as a whole.

    Args:
        solution: with the sums of its parts.
        module: quantized.
        loss: of the whole, nats per frame.
    """

    solution: Solution
    module: CTCModule
    loss: float


@dataclass(frozen=True)
class Proof:
    """What dev says of a quantized file.

    Args:
        wer: percent.
        float_wer: percent.
        difference: mean, ci95 and p_value (paired bootstrap over utterances), in points; None for a single utterance.
    """

    wer: float | None
    float_wer: float | None
    difference: Mapping[str, Any] | None

    @property
    def shows_loss(self) -> bool:
        """Whether the quantized file is worse beyond chance."""
        found = self.difference
        return found is not None and found["mean"] > 0 and found["p_value"] < SHOWN

    def __str__(self) -> str:
        """In a few words."""
        found = self.difference
        if found is None or self.wer is None or self.float_wer is None:
            return "dev has too few words to compare"
        against = f"float {self.float_wer:.2f} %: {found['mean']:+.2f}, p {found['p_value']:.2f}"
        return f"dev WER {self.wer:.2f} % ({against})"


class Prover:
    """Compares files with the float file on dev; the first rank of several does all of it.

    Args:
        work: with dev, and the float model.
        float_file: exported from it.
    """

    def __init__(self, work: Workbench, float_file: Path) -> None:
        self.work, self.float_file = work, float_file

    @cached_property
    def baseline(self) -> list[UtteranceErrors]:
        """What the float file makes of dev."""
        return self.transcribe(self.float_file)

    def transcribe(self, path: Path) -> list[UtteranceErrors]:
        """What a file makes of dev."""
        data, utterances = self.work.data, self.work.data.utterances("dev")
        recogniser = WindowedRecogniser(open_session(path, self.work.options.threads), WINDOW_S)
        texts = [recogniser.transcribe(signal_of(batch)) for batch in data.loader(utterances)]
        return count_utterances(
            [item.id for item in utterances],
            [item.text for item in utterances],
            texts,
            [item.duration_s for item in utterances],
        )

    def __call__(self, path: Path) -> Proof:
        """Compare the exported file or folder of a quantized model."""
        return on_first_rank(lambda: self.compare(path))

    def compare(self, path: Path) -> Proof:
        """As a call, on this rank alone."""
        seed = self.work.options.seed
        found = error_fields(self.transcribe(path), seed, self.baseline)
        return Proof(found["wer"], error_fields(self.baseline, seed)["wer"], found["delta_wer_vs_float"])


def exported(module: CTCModule, place: Path) -> ExportInfo:
    """The integer file or folder of a quantized model, which the first rank of several writes."""
    return on_first_rank(lambda: export(module, place, "integer"))


def verified(work: Workbench, solution: Solution) -> Verified:
    """Measure a choice as a whole."""
    module = work.quantized(work.choice_of(solution.choice))
    return Verified(solution, module, on_first_rank(lambda: loss_of(module, work.reference)))


def is_float(solution: Solution) -> bool:
    """Whether a choice quantizes nothing."""
    return set(solution.choice.values()) == {"float"}


def within_loss(work: Workbench, budget: float) -> Verified | None:
    """The fastest choice whose loss as a whole is within a budget; None where that is the float model.

    The sum of the parts' losses is not the loss of the whole: after each measurement of the whole the budget of the sum
    is scaled by their ratio, up as well as down.
    """
    inner, best = budget, None
    tried = set[tuple[str, ...]]()
    for _ in range(CORRECTIONS):
        solution = solve(work.prices(), "ms", {"loss": inner})
        if is_float(solution) or tuple(solution.choice.values()) in tried:
            break
        tried.add(tuple(solution.choice.values()))
        found = verified(work, solution)
        say(
            f"{quantized_units(solution)} of {len(work.units)} units, loss {solution.loss:.2g} summed, "
            f"{found.loss:.2g} together, budget {budget:.2g}"
        )
        if found.loss <= budget and (best is None or solution.ms < best.solution.ms):
            best = found
        inner = AIM * budget * solution.loss / max(found.loss, 1e-3 * budget)
    return best


def quantized_units(solution: Solution) -> int:
    """How many units a choice quantizes."""
    return sum(name != "float" for name in solution.choice.values())


def within_limit(work: Workbench, place: Path) -> tuple[Verified, Path]:
    """The choice that loses least within the latency or size that is asked for, and its exported file.

    The file holds more than the constants that sizes are expected from (nodes, names, the recipe): where it is larger
    than asked for, the budget of the constants is smaller by that much the next time.

    Raises:
        UserError: none is.
    """
    rest_ms, rest_bytes = work.rest
    limit, is_latency = float(work.options.limit or 0.0), work.options.budget == "max_latency"
    field, top = ("ms", limit - rest_ms) if is_latency else ("bytes", limit * 1e6 - rest_bytes)
    for _ in range(ROUNDS):
        solution = solve(work.prices(), "loss", {field: top})
        if is_float(solution):
            raise UserError(
                f"search: the float model is within {work.options.budget} {limit:g}; give a smaller budget"
            )
        found = verified(work, solution)
        file = exported(found.module, place)
        if is_latency or file.size_mb <= limit:
            return found, file.path
        say(f"{solution.bytes + rest_bytes} bytes of constants make a file of {file.size_mb:.3f} MB: fewer")
        top = solution.bytes - (file.size_mb - limit) * 1e6
    raise UserError(
        f"search: no file was within max_size_mb {limit:g}, the last one of {file.size_mb:.3f}; give a larger budget"
    )


def prove(work: Workbench, prover: Prover, place: Path) -> tuple[Verified, Proof, list[dict[str, Any]]]:
    """The recipe that holds, what dev says of it, and all rounds.

    Raises:
        UserError: no recipe is within the budget, or none without a loss on dev.
    """
    if work.options.budget != "max_loss":
        found, file = within_limit(work, place)
        return found, prover(file), []
    budget, rounds = work.options.limit or FIRST_BUDGET, list[dict[str, Any]]()
    for _ in range(ROUNDS):
        within = within_loss(work, budget)
        if within is None:
            break
        proof = prover(exported(within.module, place).path)
        rounds.append({"budget": budget, "loss": within.loss, **vars(proof)})
        say(f"budget {budget:.2g}: {proof}")
        if not proof.shows_loss:
            return within, proof, rounds
        budget *= TIGHTER
    raise UserError(f"search: {reason_for_none(work, rounds, budget)}")


def reason_for_none(work: Workbench, rounds: Sequence[Mapping[str, Any]], budget: float) -> str:
    """Why no recipe was found: integers gain nothing here, no choice is within the budget, or dev shows a loss."""
    if is_float(solve(work.prices(), "ms", {})):
        return (
            "no layer is faster on integers than in float on this machine; keep the float model, or give max_size_mb "
            "for a smaller file"
        )
    if not rounds:
        return f"no quantized recipe is within {budget:.2g} nats per frame; give a larger max_loss, or max_size_mb"
    tried = ", ".join(f"{item['budget']:.2g}" for item in rounds)
    return (
        f"no quantized recipe is without a loss on dev (budgets tried: {tried} nats per frame); keep the float "
        "model, or give max_latency or max_size_mb and accept a loss"
    )
