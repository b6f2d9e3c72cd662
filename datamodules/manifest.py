"""A user's own data: JSON lines or CSV manifests."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.audio_file import Recording, read_duration
from datamodules.base import SpeechDataModule
from datamodules.batch import Utterance
from datamodules.text import check_text, normalise
from qat.system.errors import UserError

_ALIASES = {"audio": ("audio", "wav", "path"), "text": ("text", "transcript")}
_ALLOWED_JSON = "allowed is one JSON object per line"
_OPTIONAL = ("speaker", "source", "license")


class ManifestDataModule(SpeechDataModule):
    """Splits listed in `.jsonl` (or `.json`) and `.csv` (or `.tsv`) files.

    Each line has `id`, `audio` (or `wav`, `path`) and `text` (or `transcript`); `duration_s` is read from the
    audio file's header when it is missing; `speaker`, `source` and `license` are optional.

    Args:
        train: manifest to train and calibrate on.
        dev: manifest to choose checkpoints by.
        test: manifest of the test split "test", or {name of the split: manifest}.
        audio_root: folder that relative audio paths start from; null means the manifest's own folder.
        kwargs: see `SpeechDataModule`.
    """

    def __init__(
        self,
        train: str,
        dev: str,
        test: str | dict[str, str],
        audio_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        tests = test if isinstance(test, dict) else {"test": test}
        if clash := {"train", "dev"} & set(tests):
            raise UserError(f"test split is named {min(clash)!r}; allowed is any name but train and dev")
        if not tests:
            raise UserError("test has no split; allowed is a manifest or at least one {name: manifest}")
        self.test_splits = list(tests)
        self._paths = {split: Path(path) for split, path in {"train": train, "dev": dev, **tests}.items()}
        self._audio_root = None if audio_root is None else Path(audio_root)

    def read_split(self, split: str) -> list[Utterance]:
        """Reads the split's manifest; see `read_manifest`."""
        return read_manifest(self._paths[split], self._audio_root)


def read_manifest(path: Path, audio_root: Path | None = None) -> list[Utterance]:
    """Reads and checks a JSON lines or CSV manifest.

    Args:
        path: file that ends in .jsonl, .json, .csv or .tsv.
        audio_root: folder that relative audio paths start from; None means the manifest's folder.

    Returns:
        Its utterances in file order, at least one, texts normalised.

    Raises:
        UserError: naming file, line and what is wrong: a file that is missing, empty or of another kind,
            a line that is not JSON, a missing field, a duplicate id, a missing audio file, a duration that is
            not above 0, a text with characters outside the alphabet.
    """
    if not path.is_file():
        raise UserError(f"{path}: manifest not found")
    root = path.parent if audio_root is None else audio_root
    seen: dict[str, str] = {}
    utterances = []
    for where, row in _read_rows(path):
        utterance = to_utterance(row, where, root)
        if utterance.id in seen:
            first = seen[utterance.id]
            raise UserError(
                f"{where}, id {utterance.id!r}: duplicate id, first used in {first}; ids must differ"
            )
        seen[utterance.id] = where.removeprefix(f"{path}, ")
        utterances.append(utterance)
    if not utterances:
        raise UserError(f"{path}: manifest is empty; allowed is at least one utterance")
    return utterances


def _read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("FILE, line N", fields)."""
    suffix = path.suffix.lower()
    try:
        if suffix in (".jsonl", ".json"):
            yield from _read_jsonl(path)
        elif suffix in (".csv", ".tsv"):
            yield from _read_csv(path, "," if suffix == ".csv" else "\t")
        else:
            raise UserError(f"{path}: unknown kind of manifest; allowed are .jsonl, .json, .csv and .tsv")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start})") from error


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{where}: is not JSON ({error.msg}); {_ALLOWED_JSON}") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: is a JSON {type(row).__name__}; {_ALLOWED_JSON}")
            yield where, {key: value for key, value in row.items() if value is not None}


def _read_csv(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row:
                    raise UserError(f"{where}: has more fields than the header (unquoted {delimiter!r}?)")
                yield where, {key.strip(): value for key, value in row.items() if value not in (None, "")}
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: is not CSV ({error})") from error


def to_utterance(row: dict[str, Any], where: str, root: Path, audio: Recording | None = None) -> Utterance:
    """The utterance of a manifest's line.

    Args:
        row: its fields that are not null.
        where: file and place, for messages.
        root: folder that a relative audio path starts from.
        audio: the recording, where no field names it.

    Raises:
        UserError: naming the place, the field and what is allowed.
    """
    name = str(_field(row, "id", where))
    where = f"{where}, id {name!r}"
    if audio is None:
        audio = root / str(_field(row, "audio", where))
        if not audio.is_file():
            raise UserError(f"{where}: audio file not found: {audio}")
    text = check_text(normalise(str(_field(row, "text", where))), where)
    duration_s = _duration(row["duration_s"], where) if "duration_s" in row else read_duration(audio)
    return Utterance(name, audio, text, duration_s, **{key: str(row.get(key, "")) for key in _OPTIONAL})


def _field(row: dict[str, Any], field: str, where: str) -> Any:
    names = _ALIASES.get(field, (field,))
    for name in names:
        if name in row:
            return row[name]
    wanted, present = " or ".join(map(repr, names)), ", ".join(row) or "none"
    raise UserError(f"{where}: field {wanted} is missing; its fields are {present}")


def _duration(value: Any, where: str) -> float:
    try:
        duration_s = float(value)
    except (TypeError, ValueError):
        duration_s = -1.0
    if not 0.0 < duration_s < float("inf"):
        raise UserError(f"{where}: duration_s is {value!r}; allowed are seconds above 0")
    return duration_s
