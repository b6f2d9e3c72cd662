"""One utterance of a corpus, and how it is read from a line of a manifest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.audio_file import Recording, is_file, read_duration
from datamodules.text import check_text, normalise
from qat.system.errors import UserError

_ALIASES = {"audio": ("audio", "wav", "path"), "text": ("text", "transcript")}
_MUST_BE_JSON = "must be one JSON object per line"
LONGEST_S = 604_800  # a week
_OPTIONAL = ("speaker", "source", "license")


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest.

    Attributes:
        id: unique within its split.
        audio: file, or member of a tar file, that holds exactly this utterance.
        text: normalised reference, a-z, apostrophe and space.
        duration_s: seconds of audio, greater than 0.
        speaker: speaker label, "" when unknown.
        source: where the recording comes from, "" when unknown.
        license: licence of the recording, "" when unknown.
    """

    id: str
    audio: Recording
    text: str
    duration_s: float
    speaker: str = ""
    source: str = ""
    license: str = ""


def evenly_spaced(utterances: list[Utterance], limit: int | None) -> list[Utterance]:
    """At most `limit` utterances, evenly spaced over the manifest, the same for every seed."""
    if limit is None or limit >= len(utterances):
        return utterances
    return [utterances[i * len(utterances) // limit] for i in range(limit)]


def describe_split(split: str, utterances: Sequence[Utterance]) -> str:
    """Utterances, hours and words of a split, in one line."""
    hours = sum(u.duration_s for u in utterances) / 3600
    words = sum(len(u.text.split()) for u in utterances)
    return f"{split}: {len(utterances)} utterances, {hours:.2f} h, {words} words"


def parse_json_line(line: str | bytes, where: str) -> dict[str, Any]:
    """The fields of a line of JSON that are not null.

    Args:
        line: one JSON object.
        where: file and place, for messages.

    Raises:
        UserError: the line is not JSON, or not an object.

    >>> parse_json_line('{"id": "a", "speaker": null}', "train.jsonl, line 1")
    {'id': 'a'}
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON ({getattr(error, 'msg', error)}); {_MUST_BE_JSON}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: is a JSON {type(row).__name__}; {_MUST_BE_JSON}")
    return {key: value for key, value in row.items() if value is not None}


def to_utterance(row: dict[str, Any], where: str, root: Path, audio: Recording | None = None) -> Utterance:
    """The utterance that the fields of a manifest's line describe.

    Args:
        row: its fields that are not null.
        where: file and place, for messages.
        root: folder that a relative audio path starts from.
        audio: the recording, where no field names it.

    Raises:
        UserError: naming the place, the field, its value and what it must be.
    """
    name = str(_field(row, "id", where))
    where = f"{where}, id {name!r}"
    if audio is None:
        audio = root / str(_field(row, "audio", where))
        if not is_file(audio):
            raise UserError(
                f"{where}: audio file not found: {audio}; must be a file; relative paths start from {root}"
            )
    text = check_text(normalise(str(_field(row, "text", where))), where)
    duration_s = _duration(row["duration_s"], where) if "duration_s" in row else read_duration(audio)
    return Utterance(name, audio, text, duration_s, **{key: str(row.get(key, "")) for key in _OPTIONAL})


def _field(row: dict[str, Any], field: str, where: str) -> Any:
    names = _ALIASES.get(field, (field,))
    for name in names:
        if name in row:
            return row[name]
    wanted, present = " or ".join(map(repr, names)), ", ".join(row) or "none"
    raise UserError(f"{where}: field {wanted} is missing; must be given; the line's fields are {present}")


def _duration(value: Any, where: str) -> float:
    try:
        duration_s = float(value)
    except (TypeError, ValueError, OverflowError):
        duration_s = -1.0
    if not 0.0 < duration_s <= LONGEST_S:
        raise UserError(
            f"{where}: duration_s is {value!r}; must be seconds above 0, at most {LONGEST_S} (a week); "
            "leave it out to read it from the audio"
        )
    return duration_s
