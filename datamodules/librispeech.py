"""LibriSpeech (Panayotov et al. 2015): LibriSpeech/SUBSET/SPEAKER/CHAPTER/{*.flac,*.trans.txt}."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torchaudio

from datamodules.audio_file import read_duration
from datamodules.base import SpeechDataModule
from datamodules.corrupt import Skipped
from datamodules.text import check_text, normalise
from datamodules.utterance import Utterance
from qat.system.errors import UserError
from qat.system.lock import waiting_for

FOLDER = "LibriSpeech"
TRAIN_SUBSETS = ("train-clean-100", "train-clean-360", "train-other-500")
DEV_SUBSETS = ("dev-clean", "dev-other")
TEST_SUBSETS = ("test-clean", "test-other")


class LibriSpeechDataModule(SpeechDataModule):
    """The LibriSpeech corpus; its test splits are named after their subsets.

    Args:
        root: the folder LibriSpeech, or the folder that has it or will get it.
        train_subsets: subsets to train and calibrate on.
        dev_subset: subset to choose checkpoints by.
        test_subsets: subsets to report on, each by itself.
        download: fetch missing subsets (6 GB for train-clean-100) with torchaudio, which checks checksums.
        kwargs: see `SpeechDataModule`.
    """

    def __init__(
        self,
        root: str,
        train_subsets: Sequence[str] = ("train-clean-100",),
        dev_subset: str = "dev-clean",
        test_subsets: Sequence[str] = TEST_SUBSETS,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_subsets("train_subsets", train_subsets, TRAIN_SUBSETS)
        _check_subsets("dev_subset", [dev_subset], DEV_SUBSETS)
        _check_subsets("test_subsets", test_subsets, TEST_SUBSETS)
        self.root = Path(root)
        inside = self.root.name == FOLDER and not (self.root / FOLDER).is_dir()
        self._home = self.root if inside else self.root / FOLDER
        self.download = download
        self.test_splits = list(test_subsets)
        self._subsets = {"train": list(train_subsets), "dev": [dev_subset]}
        self._subsets |= {name: [name] for name in test_subsets}

    @property
    def is_disjoint(self) -> bool:
        """Its subsets have no speaker in common."""
        return True

    def prepare_data(self) -> None:
        """Fetches missing subsets when `download` is set; Lightning calls this once per machine."""
        for subset in {name for names in self._subsets.values() for name in names}:
            self._subset_folder(subset)

    def read_split(self, split: str) -> list[Utterance]:
        """Reads the split's subsets, in order of speaker, chapter and utterance."""
        skipped = self.skipped if split == "train" else None
        return [
            u for subset in self._subsets[split] for u in read_subset(self._subset_folder(subset), skipped)
        ]

    def _subset_folder(self, subset: str) -> Path:
        folder = self._home / subset
        if folder.is_dir():
            return folder
        if not self.download:
            raise UserError(
                f"root is {str(self.root)!r}, but {folder} is missing; "
                "must be a folder with the official layout; or set download: true"
            )
        return download_subset(self._home, subset)


def read_subset(folder: Path, skipped: Skipped | None = None) -> list[Utterance]:
    """Reads every transcript below a subset's folder.

    Args:
        folder: of the subset.
        skipped: counts recordings that cannot be read and are left out, if any may be; None: none may.

    Raises:
        UserError: there is no transcript, or one names a recording that is missing, or has no text.
    """
    transcripts = sorted(folder.glob("*/*/*.trans.txt"), key=_numbers)
    if not transcripts:
        raise UserError(
            f"{folder}: has no SPEAKER/CHAPTER/*.trans.txt; must have the official layout; unpack it again"
        )
    lines = [entry for transcript in transcripts for entry in _read_transcript(transcript)]
    with ThreadPoolExecutor(max_workers=8) as pool:  # 100 hours are 28,539 files, each a wait for the disk
        durations = list(pool.map(_duration_or_error, [audio for audio, _ in lines]))
    found = []
    for (audio, text), duration_s in zip(lines, durations, strict=True):
        if isinstance(duration_s, UserError):
            if not (skipped and skipped.limit):
                raise duration_s
            skipped.add(audio, str(duration_s))
            continue
        found.append(
            Utterance(audio.stem, audio, text, duration_s, audio.parts[-3], folder.name, "CC BY 4.0")
        )
    return found


def _duration_or_error(audio: Path) -> float | UserError:
    try:
        return read_duration(audio)
    except UserError as error:
        return error


def download_subset(home: Path, subset: str) -> Path:
    """Downloads and unpacks a subset next to its final folder, then renames it, so that the folder is always whole.

    An interrupted call keeps the checked archive and unpacks it anew the next time. Of several processes that ask at
    once one downloads, and the others wait for it.

    Returns:
        The subset's folder.

    Raises:
        UserError: the download, its checksum or unpacking failed.
    """
    part, target = home / f"{subset}.part", home / subset
    with waiting_for(part, f"download of {subset}"):
        if not target.is_dir():
            _download(part, subset).rename(target)
        shutil.rmtree(part)
    return target


def _download(part: Path, subset: str) -> Path:
    """The unpacked subset below a working folder.

    Raises:
        UserError: see `download_subset`.
    """
    shutil.rmtree(part / FOLDER, ignore_errors=True)
    try:
        torchaudio.datasets.LIBRISPEECH(part, url=subset, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"download of {subset} to {part} failed ({reason}); must end with the right checksum; try again"
        ) from error
    return part / FOLDER / subset


def _read_transcript(path: Path) -> list[tuple[Path, str]]:
    """Recordings and texts of one chapter."""
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, text = line.strip().partition(" ")
        where = f"{path}, line {number}, id {name!r}"
        audio = path.parent / f"{name}.flac"
        if not audio.is_file():
            raise UserError(
                f"{where}: audio file not found: {audio}; must be beside the transcript; unpack it again"
            )
        entries.append((audio, check_text(normalise(text), where)))
    return entries


def _numbers(path: Path) -> tuple[int, ...]:
    """Speaker and chapter as numbers, so that 84 comes before 1089."""
    return tuple(int(part) if part.isdigit() else -1 for part in path.parts[-3:-1])


def _check_subsets(field: str, subsets: Sequence[str], allowed: Sequence[str]) -> None:
    listed = ", ".join(allowed)
    if not subsets or isinstance(subsets, str):
        raise UserError(f"{field} is {subsets!r}; must be a list of {listed}")
    for name in subsets:
        if name not in allowed:
            raise UserError(f"{field} is {name!r}; must be one of {listed}")
    if len(set(subsets)) < len(subsets):
        raise UserError(f"{field} is {list(subsets)!r}, which names a subset twice; must name each once")
