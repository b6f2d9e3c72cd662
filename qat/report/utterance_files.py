"""Files of single utterances beside a report: `utterances.json` (all texts) and `worst.json` (most errors)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.evaluation.error_rates import UtteranceErrors
from qat.evaluation.measurement import Measurement, own_last
from qat.system.errors import UserError
from qat.system.files import write_text


@dataclass(frozen=True)
class Transcript:
    """One utterance in one run."""

    reference: str
    hypothesis: str
    errors: int
    words: int


def save_utterances(path: Path, measurements: Sequence[Measurement]) -> None:
    """Write what every file made of every utterance, for later comparisons and significance tests (JSON).

    `splits`: split -> `ids`, `references`, `words` (reference words), in order. `files`: stem of the file -> split ->
    `hypotheses`, `errors` (word errors), in the same order.
    """
    splits = {
        split: {
            "ids": [item.id for item in utterances],
            "references": [item.reference for item in utterances],
            "words": [item.counts.reference_words for item in utterances],
        }
        for split, utterances in measurements[0].utterances.items()
    }
    files = {
        measurement.name: {
            split: {
                "hypotheses": [item.hypothesis for item in utterances],
                "errors": [item.counts.errors for item in utterances],
            }
            for split, utterances in measurement.utterances.items()
        }
        for measurement in own_last(measurements)
    }
    write_text(path, json.dumps({"splits": splits, "files": files}, ensure_ascii=False) + "\n")


def load_transcripts(path: Path) -> dict[str, dict[str, Transcript]]:
    """Split -> id -> transcript by the last file of `utterances.json`, which is the run's own model.

    Raises:
        UserError: the file is missing or is not one of `save_utterances`.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        own = stored["files"][list(stored["files"])[-1]]
        return {
            split: {
                name: Transcript(reference, hypothesis, errors, words)
                for name, reference, words, hypothesis, errors in zip(
                    items["ids"],
                    items["references"],
                    items["words"],
                    own[split]["hypotheses"],
                    own[split]["errors"],
                    strict=True,
                )
            }
            for split, items in stored["splits"].items()
        }
    except OSError:
        raise UserError(
            f"{path}: is missing; measure the run again with `python evaluate.py report {path.parent}`"
        ) from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise UserError(f"{path}: not the texts of a run") from None


def save_worst(path: Path, worst: Mapping[str, Sequence[UtteranceErrors]]) -> None:
    """Write the worst utterances of each split beside the report (JSON: split -> list)."""
    content = {split: [item.to_dict() for item in items] for split, items in worst.items()}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def load_worst(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read what `save_worst` wrote; {} when there is no such file."""
    return json.loads(path.read_text()) if path.exists() else {}
