"""Pictures drawn from rows and the CSV log: error rates, latency, noise per layer, training, methods by bits."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qat.report.cells import bits
from qat.report.drawing import (
    COLOURS,
    FLOAT_COLOUR,
    INTEGER_COLOUR,
    canvas,
    colour_of,
    decorate,
    finish,
    logarithmic_wer,
    save,
)  # fmt: skip
from qat.report.points import Point, Points, bits_value
from qat.report.row import Bits, Latency, Row

WORST_SHOWN = 100.0  # percent; a model that is broken altogether would flatten all others
LineStyle = Literal["-", "--", ":", "-."]
LINE_STYLES: tuple[tuple[LineStyle, str], ...] = (
    ("-", "o"),
    ("--", "s"),
    (":", "^"),
    ("-.", "D"),
)  # by activation bits, most bits first


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
    return row.method if bits(row) == row.method else f"{row.method} {bits(row)}"


def draw_wer(path: Path, rows: Sequence[Row]) -> Path | None:
    """WER with 95 % intervals, grouped by split, one colour per method; None when no row has a WER."""
    measured = [(row, row.wer) for row in rows if row.wer is not None]
    if not measured:
        return None
    splits = list(dict.fromkeys(row.split for row, _ in measured))
    methods = list(dict.fromkeys(label(row) for row, _ in measured))
    step = 0.8 / len(methods)
    figure, axes = canvas(max(6.0, 1.6 + 0.55 * len(splits) * len(methods)), 4.2)
    for row, wer in measured:
        number = methods.index(label(row))
        x = splits.index(row.split) + (number - (len(methods) - 1) / 2) * step
        low, high = row.wer_ci95 or (wer, wer)
        axes.bar(x, wer, 0.9 * step, color=colour_of(number))
        axes.vlines(x, low, high, color="black", linewidth=1.2)
        axes.text(x, high, f"{wer:.1f}", ha="center", va="bottom", fontsize=8)
    for number, name in enumerate(methods):
        axes.bar(0, 0, color=colour_of(number), label=name)
    axes.set_xticks(range(len(splits)), splits)
    axes.set_ylabel("word error rate (%)")
    axes.set_title("Word error rate, 95 % bootstrap interval over utterances")
    axes.margins(y=0.1)
    return finish(figure, axes, path, legend=True)


def draw_latency(path: Path, rows: Sequence[Row]) -> Path | None:
    """Float against integer file, one pair per file: bars to p50, whiskers to p95; None when nothing was timed so."""
    timed = timed_files(rows)
    if not timed:
        return None
    figure, axes = canvas(8.0, 1.6 + 0.75 * len(timed))
    for place, row in enumerate(timed):
        draw_bar(axes, place - 0.2, row.float_latency_ms, FLOAT_COLOUR)
        gain = f"  ({row.speedup:.2f}x)" if row.speedup else ""
        draw_bar(axes, place + 0.2, row.latency_ms, INTEGER_COLOUR, gain)
    axes.barh(0, 0, color=FLOAT_COLOUR, label="float file")
    axes.barh(0, 0, color=INTEGER_COLOUR, label="integer file")
    axes.set_yticks(range(len(timed)), [label(row) for row in timed], fontsize=8)
    axes.set_ylim(len(timed) - 0.5, -0.5)
    axes.set_xlabel("latency of one utterance (ms): bar = p50, line = p95")
    first = timed[0]
    axes.set_title(f"Latency, {first.engine} on {first.device}, {first.threads} thread(s)")
    axes.margins(x=0.18)
    return finish(figure, axes, path, legend=True, grid="x")


def timed_files(rows: Sequence[Row]) -> list[Row]:
    """The first row of each file that was timed beside its float file."""
    found: dict[tuple[str, Latency | None, Latency | None], Row] = {}
    for row in rows:
        if _is_whole(row.latency_ms) and _is_whole(row.float_latency_ms):
            found.setdefault((label(row), row.latency_ms, row.float_latency_ms), row)
    return list(found.values())


def draw_bar(axes: Axes, place: float, latency: Latency | None, colour: str, gain: str = "") -> None:
    """One bar to p50 with a line to p95 and its number."""
    if latency is None or latency.p50 is None or latency.p95 is None:
        return
    axes.barh(place, latency.p50, 0.36, color=colour)
    axes.hlines(place, latency.p50, latency.p95, color="black", linewidth=1.2)
    axes.text(latency.p95, place, f" {latency.p50:.1f}{gain}", va="center", fontsize=8)


def _is_whole(latency: Latency | None) -> bool:
    return latency is not None and latency.p50 is not None and latency.p95 is not None


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


def draw_bits(path: Path, points: Points, float_wer: float, title: str) -> Path:
    """WER against weight bits; a colour per method, a line style per activation bits, 95 % bands or whiskers."""
    every = [point for line in points.values() for point in line]
    widths = sorted({point.weight_bits for point in every}, key=bits_value, reverse=True)
    activations = sorted({point.activation_bits for point in every}, key=bits_value, reverse=True)
    figure, axes = canvas(8.0, 4.4)
    axes.axhline(float_wer, color=FLOAT_COLOUR, linestyle=(0, (1, 1)), linewidth=1.2)
    for number, activation, line in lines_by_activation(points):
        shift = 0.03 * (number - (len(points) - 1) / 2)  # what has the same weight bits stays apart
        shift += 0.2 * activations.index(activation)
        x = [widths.index(point.weight_bits) + shift for point in line]
        style, marker = LINE_STYLES[activations.index(activation) % len(LINE_STYLES)]
        low, high = zip(*(point.interval for point in line), strict=True)
        axes.plot(x, [point.wer for point in line], color=colour_of(number), linestyle=style, marker=marker)
        if len(line) > 1:
            axes.fill_between(x, low, high, color=colour_of(number), alpha=0.12, linewidth=0)
        else:
            axes.vlines(x, low, high, color=colour_of(number), linewidth=1.2)
    axes.set_xticks(range(len(widths)), [f"{width or 'float'}" for width in widths])
    axes.set_xlabel("bits of the weights")
    logarithmic_wer(axes)
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.2 * WORST_SHOWN))
    axes.set_title(f"{title}: word error rate by bits, 95 % intervals")
    decorate(axes, "y")
    handles = legend_of_bits([name for name, line in points.items() if line], list(points), activations)
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save(figure, path)


def lines_by_activation(points: Points) -> Iterator[tuple[int, Bits, list[Point]]]:
    """(number of the method, activation bits, points by falling weight bits) of every line."""
    for number, line in enumerate(points.values()):
        for activation in dict.fromkeys(point.activation_bits for point in line):
            same = [point for point in line if point.activation_bits == activation]
            yield number, activation, sorted(same, key=lambda point: -bits_value(point.weight_bits))


def legend_of_bits(shown: Sequence[str], methods: Sequence[str], activations: Sequence[Bits]) -> list[Line2D]:
    """Colours of the methods, then line styles of the activation bits."""
    handles = [Line2D([], [], color=FLOAT_COLOUR, linestyle=(0, (1, 1)), label="float")]
    handles += [
        Line2D([], [], color=colour_of(methods.index(name)), linewidth=3, label=name) for name in shown
    ]
    for number, width in enumerate(activations):
        style, marker = LINE_STYLES[number % len(LINE_STYLES)]
        name = f"{width}-bit activations" if width else "float activations"
        handles.append(Line2D([], [], color="black", linestyle=style, marker=marker, label=name))
    return handles


def draw_tradeoff(path: Path, points: Points, key: str, title: str) -> Path:
    """WER against `size_mb` or `latency_ms`, one mark per model with its bits."""
    names = {"size_mb": "size of the file (MB)", "latency_ms": "latency p50 (ms)"}
    figure, axes = canvas(8.0, 4.4)
    for number, (method, line) in enumerate(points.items()):
        known = [(getattr(point, key), point) for point in line if getattr(point, key) is not None]
        if known:
            x, y = [value for value, _ in known], [point.wer for _, point in known]
            axes.scatter(x, y, color=colour_of(number), label=method, s=28)
        for value, point in known:
            place = (value, point.wer)
            axes.annotate(point.label, place, xytext=(4, 3), textcoords="offset points", fontsize=7)
    logarithmic_wer(axes)
    axes.set_xlabel(names[key])
    axes.set_title(f"{title}: word error rate against {names[key].partition(' (')[0]}")
    return finish(figure, axes, path, legend=True, grid="both")


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
