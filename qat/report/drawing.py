"""What all pictures share: colours, canvas, axes of error rates, files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

# Okabe & Ito's palette: distinct for readers with any colour vision
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#666666", "#000000")
FLOAT_COLOUR, INTEGER_COLOUR = "#666666", "#0072B2"
DPI = 130

Grid = Literal["x", "y", "both"]


def colour_of(number: int) -> str:
    """Colour of the n-th method of a picture."""
    return COLOURS[number % len(COLOURS)]


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of the given size in inches, without the global state of pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def logarithmic_wer(axes: Axes) -> None:
    """Error rates from a few percent to a hundred on one axis, with plain numbers at its ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0), numticks=99))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("word error rate (%), logarithmic")


def decorate(axes: Axes, grid: Grid) -> None:
    """Thin grid behind the data, no box."""
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def finish(figure: Figure, axes: Axes, path: Path, legend: bool = False, grid: Grid = "y") -> Path:
    """Grid, legend beside the data, file."""
    decorate(axes, grid)
    if legend:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI)
    return path
