"""Pictures of a run, drawn from its rows and its CSV log: error rates, latency, noise per layer, training."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from qat.report.row import Row
from qat.report.tables import bits

# Okabe & Ito's palette: told apart by readers with any colour vision
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#666666", "#000000")
FLOAT_COLOUR, INTEGER_COLOUR = "#666666", "#0072B2"
DPI = 130


def draw_all(
    folder: Path,
    rows: Sequence[Row],
    sqnr_db: Mapping[str, float] | None = None,
    metrics_csv: Path | None = None,
) -> list[Path]:
    """Draw what there is data for into `folder`; returns the files written."""
    drawn = [draw_wer(folder / "wer.png", rows), draw_latency(folder / "latency.png", rows)]
    drawn.append(draw_sqnr(folder / "sqnr.png", sqnr_db) if sqnr_db else None)
    drawn.append(draw_training(folder / "training.png", metrics_csv) if metrics_csv else None)
    return [path for path in drawn if path is not None]


def label(row: Row) -> str:
    """Method and bits of a row: "deterministic W8 A8"."""
    return row["method"] if bits(row) == row["method"] else f"{row['method']} {bits(row)}"


def draw_wer(path: Path, rows: Sequence[Row]) -> Path | None:
    """WER with 95 % intervals, grouped by split, one colour per method; None when no row has a WER."""
    measured = [row for row in rows if row["wer"] is not None]
    if not measured:
        return None
    splits = list(dict.fromkeys(row["split"] for row in measured))
    methods = list(dict.fromkeys(label(row) for row in measured))
    step = 0.8 / len(methods)
    figure, axes = canvas(max(6.0, 1.6 + 0.55 * len(splits) * len(methods)), 4.2)
    for row in measured:
        number = methods.index(label(row))
        x = splits.index(row["split"]) + (number - (len(methods) - 1) / 2) * step
        low, high = row["wer_ci95"] or (row["wer"], row["wer"])
        axes.bar(x, row["wer"], 0.9 * step, color=COLOURS[number % len(COLOURS)])
        axes.vlines(x, low, high, color="black", linewidth=1.2)
        axes.text(x, high, f"{row['wer']:.1f}", ha="center", va="bottom", fontsize=8)
    for number, name in enumerate(methods):
        axes.bar(0, 0, color=COLOURS[number % len(COLOURS)], label=name)
    axes.set_xticks(range(len(splits)), splits)
    axes.set_ylabel("word error rate (%)")
    axes.set_title("Word error rate, 95 % bootstrap interval over utterances")
    axes.margins(y=0.1)
    return finish(figure, axes, path, legend=True)


def draw_latency(path: Path, rows: Sequence[Row]) -> Path | None:
    """Float against integer file: bars to p50, whiskers to p95; None when no row was timed against float."""
    timed = [row for row in rows if _is_timed(row, "latency_ms") and _is_timed(row, "float_latency_ms")]
    if not timed:
        return None
    figure, axes = canvas(8.0, 1.6 + 0.75 * len(timed))
    for place, row in enumerate(timed):
        pairs = (("float_latency_ms", FLOAT_COLOUR, -0.2), ("latency_ms", INTEGER_COLOUR, 0.2))
        for key, colour, shift in pairs:
            p50, p95 = row[key]["p50"], row[key]["p95"]
            axes.barh(place + shift, p50, 0.36, color=colour)
            axes.hlines(place + shift, p50, p95, color="black", linewidth=1.2)
            gain = f"  ({row['speedup']:.2f}x)" if key == "latency_ms" and row["speedup"] else ""
            axes.text(p95, place + shift, f" {p50:.1f}{gain}", va="center", fontsize=8)
    axes.barh(0, 0, color=FLOAT_COLOUR, label="float file")
    axes.barh(0, 0, color=INTEGER_COLOUR, label="integer file")
    axes.set_yticks(range(len(timed)), [f"{label(row)}\n{row['split']}" for row in timed], fontsize=8)
    axes.set_ylim(len(timed) - 0.5, -0.5)
    axes.set_xlabel("latency of one utterance (ms): bar = p50, line = p95")
    first = timed[0]
    axes.set_title(f"Latency, {first['engine']} on {first['device']}, {first['threads']} thread(s)")
    axes.margins(x=0.18)
    return finish(figure, axes, path, legend=True, grid="x")


def draw_sqnr(path: Path, sqnr_db: Mapping[str, float]) -> Path | None:
    """Signal-to-quantization-noise of each layer in dB, first layer on top; None when nothing was measured.

    A layer without noise (infinite ratio) is drawn as a hatched bar of the greatest finite length.
    """
    if not sqnr_db:
        return None
    finite = [value for value in sqnr_db.values() if math.isfinite(value)]
    most = max([*finite, 1.0])
    figure, axes = canvas(8.0, 1.3 + 0.2 * len(sqnr_db))
    for place, value in enumerate(sqnr_db.values()):
        known = math.isfinite(value)
        axes.barh(
            place, value if known else most, 0.7, color=COLOURS[0] if known else "white",
            hatch="" if known else "///", edgecolor=COLOURS[0], linewidth=0 if known else 0.8,
        )  # fmt: skip
        text = f" {value:.1f}" if known else (" no noise" if value > 0 else " no signal")
        axes.text(max(value if known else most, 0.0), place, text, va="center", fontsize=7)
    axes.set_yticks(range(len(sqnr_db)), list(sqnr_db), fontsize=7)
    axes.set_ylim(len(sqnr_db) - 0.4, -0.6)
    axes.set_xlabel("signal to quantization noise at the output (dB); more is better")
    axes.set_title("Quantization noise per layer")
    axes.margins(x=0.12)
    return finish(figure, axes, path, grid="x")


def draw_training(path: Path, metrics_csv: Path) -> Path | None:
    """Loss and error rate over optimiser steps from Lightning's `metrics.csv`; None when it holds neither."""
    series = read_metrics(metrics_csv, ("train/loss", "val/loss", "val/wer"))
    if not any(series.values()):
        return None
    figure = Figure(figsize=(10.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in (("train/loss", COLOURS[0]), ("val/loss", COLOURS[5])):
        if series[name]:
            marker = "o" if len(series[name]) < 40 else ""
            left.plot(*zip(*series[name], strict=True), color=colour, label=name, marker=marker, markersize=3)
    left.set_ylabel("loss per label")
    if series["val/wer"]:
        right.plot(*zip(*series["val/wer"], strict=True), color=COLOURS[5], marker="o", markersize=3)
        last = series["val/wer"][-1]
        right.annotate(
            f"{last[1]:.1f}", last, textcoords="offset points", xytext=(0, 6), fontsize=8, ha="right"
        )
    right.set_ylabel("dev word error rate (%)")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("optimiser step")
        decorate(axes, "both")
    left.legend(frameon=False)
    return save(figure, path)


Points = Mapping[str, Sequence[Mapping[str, Any]]]
WORST_SHOWN = 100.0  # percent; a model that is broken altogether would flatten all others


def draw_bits(path: Path, points: Points, float_wer: float, title: str) -> Path:
    """WER against bits, a line with its 95 % band a method; `points` as `curve_points` gives."""
    widths = list(dict.fromkeys(point["bits"] for line in points.values() for point in line))
    figure, axes = canvas(8.0, 4.4)
    axes.axhline(float_wer, color=FLOAT_COLOUR, linestyle="--", linewidth=1.0, label="float")
    for number, (method, line) in enumerate(points.items()):
        if not line:
            continue
        x = [widths.index(point["bits"]) for point in line]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, [point["wer"] for point in line], marker="o", color=colour, label=method)
        low, high = zip(*(point["interval"] for point in line), strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xticks(range(len(widths)), widths)
    logarithmic_wer(axes)
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.2 * WORST_SHOWN))
    axes.set_title(f"{title}: word error rate by bits, 95 % bands")
    return finish(figure, axes, path, legend=True)


def draw_tradeoff(path: Path, points: Points, key: str, title: str) -> Path:
    """WER against size or latency, a mark a row with its bits."""
    names = {"size_mb": "size of the file (MB)", "latency_ms": "latency p50 (ms)"}
    figure, axes = canvas(8.0, 4.4)
    for number, (method, line) in enumerate(points.items()):
        known = [point for point in line if point[key] is not None]
        colour = COLOURS[number % len(COLOURS)]
        if known:
            x, y = [point[key] for point in known], [point["wer"] for point in known]
            axes.scatter(x, y, color=colour, label=method, s=28)
        for point in known:
            place = (point[key], point["wer"])
            axes.annotate(point["bits"], place, xytext=(4, 3), textcoords="offset points", fontsize=7)
    logarithmic_wer(axes)
    axes.set_xlabel(names[key])
    axes.set_title(f"{title}: word error rate against {names[key].partition(' (')[0]}")
    return finish(figure, axes, path, legend=True, grid="both")


def logarithmic_wer(axes: Axes) -> None:
    """Error rates from a few percent to a hundred on one axis, with plain numbers at its ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0), numticks=99))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("word error rate (%), logarithmic")


def read_metrics(path: Path, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) pairs of the named columns of a CSV log; also of `NAME_step`, `NAME_epoch`."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    with open(path, newline="") as file:
        for line in csv.DictReader(file):
            for name in names:
                text = next(
                    (line[key] for key in (name, f"{name}_step", f"{name}_epoch") if line.get(key)), ""
                )
                if text and line.get("step") and math.isfinite(float(text)):
                    found[name].append((int(line["step"]), float(text)))
    return found


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of the given size in inches, without the global state of pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def decorate(axes: Axes, grid: str) -> None:
    """Thin grid behind the data, no box."""
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def finish(figure: Figure, axes: Axes, path: Path, legend: bool = False, grid: str = "y") -> Path:
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


def _is_timed(row: Row, key: str) -> bool:
    return row[key] is not None and None not in row[key].values()
