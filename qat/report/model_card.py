"""The README.md of a checkpoint folder, written from its rows and its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qat.evaluation.graphs import exports_in, size_mb
from qat.report.cells import number, share
from qat.report.row import Row
from qat.report.tables import SPEED, WER, file_table, markdown_table, names_of, parts_table
from qat.system.files import write_text

LICENCES = {
    "mini": "trained on the mini corpus, see datamodules/mini/licenses/LICENSES.md for its sources",
    "librispeech": "trained on LibriSpeech (CC-BY-4.0)",
}
TASK = "English speech recognition (16 kHz mono audio to lower-case text, {search})"
SEARCHES = {"AttentionModule": "attention"}
LIMITS = (
    "Error rates hold for recordings like those of the splits above; other accents, microphones, noise and "
    "vocabulary were not measured.",
    "Numbers come out in words, without punctuation or capitals: the alphabet is a-z, apostrophe and space.",
    "Latency holds for the engine, threads and processor of the report; measure again on another one.",
)


def model_card(
    folder_name: str,
    rows: Sequence[Row],
    config: Mapping[str, Any],
    licence: str = "not stated",
    files: Mapping[str, float] | None = None,
) -> str:
    """Markdown: task, data, licence, sizes, error rates with intervals, how to load, limits.

    Args:
        folder_name: name of the checkpoint folder.
        rows: the run's report rows; may be empty for a model that was not measured.
        config: the run's whole configuration as nested builtins.
        licence: of weights and training data in words.
        files: file name -> size in MB.
    """
    head = rows[-1] if rows else None
    parts = [
        f"# {folder_name}\n",
        "\n".join(f"- {line}" for line in facts(head, config, licence)) + "\n",
    ]
    parts.append(f"## Error rates\n\n{_measured(rows)}")
    if rows:
        parts.append(f"## Speed and size\n\n{file_table(rows, SPEED)}")
    if times := parts_table(rows):
        parts.append(f"## Parts of a transcription\n\n{times}")
    if files:
        lines = [f"- `{name}`: {size:.2f} MB\n" for name, size in files.items()]
        parts.append(f"## Files\n\n{''.join(lines)}")
    parts.append(f"## How to load\n\n{how_to_load(folder_name)}")
    parts.append("## Limits\n\n" + "".join(f"- {line}\n" for line in LIMITS))
    return "\n".join(parts)


def facts(row: Row | None, config: Mapping[str, Any], licence: str) -> list[str]:
    """The list at the top of the card."""
    model, data = _class_name(config.get("model")), _class_name(config.get("data"))
    recipe = _init_args(config.get("model")).get("recipe") or config.get("qat") or {}
    search = (row.decoding if row else None) or SEARCHES.get(model, "greedy CTC")
    lines = [f"Task: {TASK.format(search=search)}", f"Model: {row.model if row else model}"]
    lines.append(f"Data: {row.dataset} (`{data}`)" if row else f"Data: {data}")
    lines.append(f"Licence: {licence}")
    lines.append(
        f"Quantization: preset `{recipe.get('preset', 'off')}`, weight_bits {recipe.get('weight_bits')}, "
        f"activation_bits {recipe.get('activation_bits')}, rounding {recipe.get('rounding')}"
        if recipe.get("preset", "off") != "off"
        else "Quantization: none (float)"
    )
    if row and row.coverage:
        lines.append(
            f"Coverage: {share(row, 'coverage.weights')} of the weights and {share(row, 'coverage.macs')} "
            "of the multiply-adds are quantized"
        )
    if row:
        lines.append(f"Size: {number(row, 'size_mb')} MB (float: {number(row, 'float_size_mb')} MB)")
        lines.append(f"Measured with: `{row.command}` (seed {row.seed}, commit {row.git_commit})")
    return lines


def how_to_load(folder_name: str) -> str:
    """Commands and code that use the checkpoint."""
    return (
        "Text from audio, with the integer file:\n\n"
        f"```\npython evaluate.py transcribe {folder_name} recording.wav\n```\n\n"
        "Measure again:\n\n"
        f"```\npython evaluate.py report {folder_name}\n```\n"
    )


def write_model_card(folder: Path, rows: Sequence[Row], config: Mapping[str, Any]) -> Path:
    """Write `folder/README.md`, with the sizes of the checkpoints and exported models there; returns its path."""
    licence = LICENCES.get(rows[0].dataset, "not stated") if rows else "not stated"
    kept = [path for path in folder.iterdir() if path.suffix in (".ckpt", ".data")]
    files = {path.name: size_mb(path) for path in sorted([*kept, *exports_in(folder)])}
    path = folder / "README.md"
    write_text(path, model_card(folder.name, rows, config, licence, files))
    return path


def _measured(rows: Sequence[Row]) -> str:
    if not rows:
        return "Not measured yet: `python evaluate.py report` fills this in.\n"
    return "Corpus WER in percent with 95 % bootstrap intervals over utterances.\n\n" + markdown_table(
        rows, names_of(rows) + WER
    )


def _init_args(section: Any) -> Mapping[str, Any]:
    return (section.get("init_args") or {}) if isinstance(section, Mapping) else {}


def _class_name(section: Any) -> str:
    path = section.get("class_path", "") if isinstance(section, Mapping) else str(section or "")
    return path.rpartition(".")[2] or "not stated"
