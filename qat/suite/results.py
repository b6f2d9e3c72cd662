"""RESULTS.md: the published tables beside ours, filled from stored rows and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qat.report.cells import bits, p_text
from qat.report.points import Point, point_of
from qat.report.row import Row
from qat.report.tables import libraries, machine, markdown_lines, markdown_list
from qat.suite.aims import SIGNIFICANT, acceptance, relative_loss
from qat.suite.spec import FLOAT, Published, Suite, SuiteTable
from qat.suite.store import Results
from qat.suite.view import NOT_RUN, Cell, View
from qat.system.files import write_text

HOW_TO_READ = (
    "`{command}` writes every cell from stored rows ([rows]({rows}), [word errors per utterance]({errors}), "
    "[state of each run]({runs})). The published numbers come from other models and other speech: compare the "
    "*differences*, not the levels. WER and latency of a row belong to the same exported file; latency is the p50 of "
    "one utterance, float and integer file taking turns on one thread. A row with several seeds shows the mean, the "
    "standard deviation between seeds, and an interval from the paired bootstrap over utterances, seeds pooled. "
    "p < 0.05 means that a difference is hardly chance."
)
LINKS = {"rows": "", "errors": "_errors", "runs": "_runs"}


def render(view: View, command: str, links: Mapping[str, str], figures: Sequence[Path] = ()) -> str:
    """The whole of RESULTS.md."""
    suite = view.suite
    parts = [f"# {suite.title}\n", HOW_TO_READ.format(command=command, **links) + "\n"]
    parts += [f"![{path.stem}]({path.as_posix()})\n" for path in figures]
    if suite.aims:
        parts.append("## Aims\n\n" + acceptance(view))
    for table in suite.tables:
        parts.append(f"## {table.heading}\n\n{table_markdown(view, table)}")
    for model in suite.configs:
        parts.append(f"## {model}: error rate by bits and method\n\n{curve_markdown(view, model)}")
    parts.append("## Conditions\n\n" + markdown_list(short_conditions(view.results.rows)))
    if missing := missing_lines(view):
        parts.append(f"## Missing rows\n\n{markdown_list(missing)}")
    return "\n".join(parts)


def missing_lines(view: View) -> list[str]:
    """Rows without a result and why; one line for a model of which nothing was run, unless a run failed."""
    lines = []
    for model in view.suite.configs:
        rows = [row.id for row in view.suite.rows if row.model == model]
        reasons = {row_id: view.failure(row_id) for row_id in rows if view.first(row_id) is None}
        if len(reasons) == len(rows) and set(reasons.values()) == {NOT_RUN}:
            lines.append(f"`{model}/*`: {NOT_RUN} ({len(rows)} rows)")
        else:
            lines += [f"`{row_id}`: {reason}" for row_id, reason in reasons.items()]
    return lines


def table_markdown(view: View, table: SuiteTable) -> str:
    """One published table: each published row with ours after it; groups of further models follow."""
    titles = ["published row", "published WER / s", "ours", "bits"]
    titles += [f"WER % {split}" for split in view.splits]
    titles += ["p50 ms: float / file", "MB", "weights", "verdict"]
    lines = model_lines(view, table, table.model)
    for model in table.also:
        if view.is_measured(model):
            lines += [group_line(view, model, ""), *model_lines(view, table, model)]
        else:
            lines.append(group_line(view, model, NOT_RUN))
    return markdown_lines(titles, lines)


def model_lines(view: View, table: SuiteTable, model: str) -> list[list[str]]:
    """A model's rows of a table."""
    base = table.rows[0].wer
    return [
        [*(published_cells(line, base) if place == 0 else ("", "")), *our_cells(view, f"{model}/{name}")]
        for line in table.rows
        for place, name in enumerate(line.rows)
    ]


def group_line(view: View, model: str, verdict_text: str) -> list[str]:
    """The line over a further model's rows: its name, and how it is searched."""
    row = view.first(f"{model}/{FLOAT}")
    search = f": {row.decoding}" if row is not None and row.decoding else ""
    return [f"**{model}**{search}", *([""] * (len(view.splits) + 6)), verdict_text]


def published_cells(line: Published, base: float | None) -> tuple[str, str]:
    """Name, and "3.58 (+0.42) / 0.6"."""
    if not line.name:
        return "(ours only)", ""
    wer = "-" if line.wer is None else f"{line.wer:.2f}"
    if line.wer is not None and base is not None and line.wer != base:
        wer += f" ({line.wer - base:+.2f})"
    return line.name, f"{wer} / {'-' if line.time_s is None else line.time_s}"


def our_cells(view: View, row_id: str) -> list[str]:
    """From our title to the verdict."""
    title = "float" if row_id.endswith(f"/{FLOAT}") else view.suite.row(row_id).title
    row = view.first(row_id)
    if row is None:
        return [title, "", *([""] * (len(view.splits) + 3)), view.failure(row_id)]
    return [
        title,
        bits(row),
        *(cell_text(view.cell(row_id, split)) for split in view.splits),
        latency_text(row),
        "n/a" if row.size_mb is None else f"{row.size_mb:.2f}",
        "float" if row.coverage is None else f"{100 * (row.coverage.weights or 0):.1f} %",
        verdict(view, row_id),
    ]


def cell_text(cell: Cell | None) -> str:
    """ "4.79 ± 0.10 [3.8, 5.8], +0.11 (p = 0.630)"."""
    if cell is None:
        return ""
    spread = "" if cell.spread is None else f" ± {cell.spread:.2f}"
    interval = "" if cell.interval is None else f" [{cell.interval[0]:.1f}, {cell.interval[1]:.1f}]"
    difference = ""
    if cell.difference is not None:
        difference = f", {cell.difference.mean:+.2f} ({p_text(cell.difference.p_value)})"
    return f"{cell.wer:.2f}{spread}{interval}{difference}"


def latency_text(row: Row) -> str:
    """ "31.7 / 24.3 (1.30x)"."""
    if row.latency_ms is None:
        return "n/a"
    own = f"{row.latency_ms.p50:.1f}"
    if row.float_latency_ms is None:
        return own
    return f"{row.float_latency_ms.p50:.1f} / {own} ({row.speedup:.2f}x)"


def verdict(view: View, row_id: str) -> str:
    """What the first split says, in words."""
    if row_id.endswith(f"/{FLOAT}"):
        return "reference"
    cell = view.cell(row_id, view.splits[0])
    if cell is None or cell.difference is None:
        return "not measured"
    if cell.difference.p_value >= SIGNIFICANT:
        return "no significant difference to float"
    if cell.difference.mean < 0:
        return f"better than float by {-cell.difference.mean:.2f}"
    return f"loses {cell.difference.mean:.2f} points ({100 * relative_loss(view, row_id):+.0f} %)"


def curve_markdown(view: View, model: str) -> str:
    """Bits down, methods across, on the first split."""
    if not view.is_measured(model):
        return f"{NOT_RUN[0].upper()}{NOT_RUN[1:]}.\n"
    curves = view.curves(model)
    widths = max((len(names) for names in curves.values()), default=0)
    lines = []
    for place in range(widths):
        cells, width = [], ""
        for names in curves.values():
            row_id = f"{model}/{names[place]}" if place < len(names) else ""
            row = view.first(row_id) if row_id else None
            width = width or (bits(row) if row else "")
            cells.append(cell_text(view.cell(row_id, view.splits[0])) if row else "")
        lines.append([width or names_of_bits(curves, place), *cells])
    split = view.splits[0] if view.splits else "the test set"
    return f"WER % on {split}.\n\n" + markdown_lines(["bits", *curves], lines)


def names_of_bits(curves: Mapping[str, Sequence[str]], place: int) -> str:
    """The bits of a line without measured rows, from the row's name."""
    return next((names[place] for names in curves.values() if place < len(names)), "")


def short_conditions(rows: Sequence[Row]) -> list[str]:
    """Machines and versions, each different set once, with the commits of its rows in place of their commands."""
    commits: dict[str, dict[str, None]] = {}
    for row in rows:
        commit = str(row.git_commit or "unknown")
        commits.setdefault(f"{machine(row)}; {libraries(row)}", {})[commit[:8] + commit[40:]] = None
    return [
        f"{conditions}; {'commit' if len(names) == 1 else 'commits'} {', '.join(names)}"
        for conditions, names in commits.items()
    ]


def write_results(suite: Suite, results: Results, path: Path, command: str) -> list[Path]:
    """Draw the figures beside the rows, and write the Markdown; the files written."""
    from qat.report.figures import draw_bits, draw_tradeoff  # here, as Matplotlib takes half a second

    view = View(suite, results)
    files = figure_files(view)
    for model, (bits_file, size_file, latency_file) in files.items():
        points, title = curve_points(view, model), f"{model}, {view.splits[0]}"
        base = view.cell(f"{model}/{FLOAT}", view.splits[0])
        assert base is not None
        draw_bits(bits_file, points, base.wer, title)
        draw_tradeoff(size_file, points, "size_mb", title)
        draw_tradeoff(latency_file, points, "latency_ms", title)
    write_text(path, results_markdown(view, path.parent, command))
    return [path, *(item for group in files.values() for item in group)]


def figure_files(view: View) -> dict[str, tuple[Path, Path, Path]]:
    """By bits, size and latency: the figures of each model that has points to show."""
    stem = view.results.folder / view.results.name
    return {
        model: (
            Path(f"{stem}_{model}_bits.png"),
            Path(f"{stem}_{model}_size.png"),
            Path(f"{stem}_{model}_latency.png"),
        )
        for model in view.suite.configs
        if any(curve_points(view, model).values())
    }


def results_markdown(view: View, here: Path, command: str) -> str:
    """RESULTS.md as it lies in the folder `here`."""
    links = {key: relative_path(view.results.path(suffix), here) for key, suffix in LINKS.items()}
    files = [item for group in figure_files(view).values() for item in group]
    return render(view, command, links, [Path(relative_path(item, here)) for item in files])


def relative_path(path: Path, start: Path) -> str:
    """`path` as a link from a file in `start`, or as it is where it lies elsewhere."""
    path, start = path.resolve(), start.resolve()
    return (path.relative_to(start) if path.is_relative_to(start) else path).as_posix()


def curve_points(view: View, model: str) -> dict[str, list[Point]]:
    """For figures: method -> its models on the first split."""
    points: dict[str, list[Point]] = {}
    for method, names in view.curves(model).items():
        points[method] = []
        for name in names:
            row = view.first(f"{model}/{name}")
            cell = view.cell(f"{model}/{name}", view.splits[0]) if row else None
            if row is not None and cell is not None:
                points[method].append(point_of(row, cell.wer, cell.interval))
    return points
