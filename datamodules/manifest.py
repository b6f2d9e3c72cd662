"""A user's own data: JSON lines or CSV manifests."""

import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.base import SpeechDataModule
from datamodules.corrupt import Skipped
from datamodules.utterance import Utterance, parse_json_line, to_utterance
from qat.system.errors import UserError


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
            raise UserError(
                f"test: split {min(clash)!r} has a name that is taken; must be any name but train and dev"
            )
        if not tests:
            raise UserError("test has no split; must be a manifest or at least one {name: manifest}")
        self.test_splits = list(tests)
        self._paths = {split: Path(path) for split, path in {"train": train, "dev": dev, **tests}.items()}
        self._audio_root = None if audio_root is None else Path(audio_root)

    def read_split(self, split: str) -> list[Utterance]:
        """Reads the split's manifest; see `read_manifest`."""
        return read_manifest(self._paths[split], self._audio_root, self.skipped if split == "train" else None)


def read_manifest(
    path: Path, audio_root: Path | None = None, skipped: Skipped | None = None
) -> list[Utterance]:
    """Reads and checks a JSON lines or CSV manifest.

    Args:
        path: file that ends in .jsonl, .json, .csv or .tsv.
        audio_root: folder that relative audio paths start from; None means the manifest's folder.
        skipped: counts lines that are wrong and are left out, if any may be; None: none may.

    Returns:
        Its utterances in file order, at least one, texts normalised.

    Raises:
        UserError: naming file, line and what is wrong: a file that is missing, empty or of another kind,
            a line that is not JSON, a missing field, a duplicate id, a missing audio file, a duration that is
            not above 0, a text with characters outside the alphabet.
    """
    if not path.is_file():
        raise UserError(f"{path}: manifest not found; must be a .jsonl or .csv file")
    root = path.parent if audio_root is None else audio_root
    seen: dict[str, str] = {}
    utterances = []
    for where, read in _read_rows(path):
        try:
            utterance = to_utterance(read(), where, root)
        except UserError as error:
            if not (skipped and skipped.limit):
                raise
            skipped.add(where, str(error))
            continue
        if utterance.id in seen:
            first = seen[utterance.id]
            raise UserError(
                f"{where}, id {utterance.id!r}: duplicate id, first used in {first}; must be unique in its file"
            )
        seen[utterance.id] = where.removeprefix(f"{path}, ")
        utterances.append(utterance)
    if not utterances:
        raise UserError(f"{path}: manifest is empty; must be at least one utterance")
    return utterances


def _read_rows(path: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yields ("FILE, line N", what gives its fields or says what is wrong with it)."""
    suffix = path.suffix.lower()
    try:
        if suffix in (".jsonl", ".json"):
            yield from _read_jsonl(path)
        elif suffix in (".csv", ".tsv"):
            yield from _read_csv(path, "," if suffix == ".csv" else "\t")
        else:
            raise UserError(f"{path}: unknown kind of manifest; must be .jsonl, .json, .csv or .tsv")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not UTF-8 (byte {error.start}); must be UTF-8 text; save it as such"
        ) from error


def _read_jsonl(path: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            yield where, partial(parse_json_line, line, where)


def _read_csv(path: Path, delimiter: str) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                yield where, partial(_csv_fields, row, where, delimiter)
        except csv.Error as error:
            raise UserError(
                f"{path}, line {reader.line_num}: is not CSV ({error}); must be fields between {delimiter!r}"
            ) from error


def _csv_fields(row: dict[str | None, Any], where: str, delimiter: str) -> dict[str, Any]:
    """The fields of a line that are not empty."""
    if None in row:
        raise UserError(
            f"{where}: has more fields than the header; must be as many; quote a field with {delimiter!r}"
        )
    return {str(key).strip(): value for key, value in row.items() if value not in (None, "")}
