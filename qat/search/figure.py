"""The Pareto curve of a search: what loses how much, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qat.report.drawing import FLOAT_COLOUR, INTEGER_COLOUR, canvas, colour_of, finish
from qat.search.choice import Solution

LEAST_SHOWN = 1e-6  # nats per frame, on a logarithmic axis


def draw_pareto(
    path: Path, curve: Sequence[Solution], others: Mapping[str, Solution], chosen: Solution, rest_ms: float
) -> Path:
    """Draw loss against time into `path`.

    Args:
        path: of the PNG.
        curve: best choices.
        others: name -> choice, such as one candidate for all layers.
        chosen: the one that was taken.
        rest_ms: of what belongs to no layer.
    """
    figure, axes = canvas(7.2, 4.4)
    points = [(max(item.loss, LEAST_SHOWN), item.ms + rest_ms) for item in curve]
    axes.plot(*zip(*points, strict=True), "o-", color=INTEGER_COLOUR, label="best choices")
    for number, (name, item) in enumerate(others.items()):
        colour = FLOAT_COLOUR if name == "float" else colour_of(number + 1)
        axes.plot(max(item.loss, LEAST_SHOWN), item.ms + rest_ms, "s", color=colour, label=name)
    place = (max(chosen.loss, LEAST_SHOWN), chosen.ms + rest_ms)
    axes.plot(*place, "*", color="black", markersize=14, label="chosen")
    axes.set_xscale("log")
    axes.set_xlabel("loss: sum over layers of the divergence that each alone causes (nats per frame)")
    axes.set_ylabel("ms of an utterance, from nodes' times")
    axes.set_title("What each choice loses and how long it takes")
    return finish(figure, axes, path, legend=True, grid="both")
