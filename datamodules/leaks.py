"""Recordings that are in two splits, found by what they sound like: ids and file names say nothing."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np

from datamodules.audio_file import Recording, Samples, average_channels, read_audio, read_start
from datamodules.base import SpeechDataModule
from datamodules.utterance import Utterance
from qat.system.errors import UserError

START = 4_000  # samples that tell most recordings apart
COMPARED = 20_000  # utterances of a stream that are compared before the run; all others as they are read
_STEPS_PER_S = 100  # durations in manifests may be rounded to two decimals
_Key = TypeVar("_Key")

Pair = tuple[Utterance, Utterance]


@dataclass(frozen=True)
class SharedTexts:
    """Texts of test splits that are in train too.

    Args:
        counts: test split -> how many of its utterances have such a text.
        compared: training utterances that were read for it.
        is_whole: whether these are all.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    compared: int = 0
    is_whole: bool = True


def check_leaks(data: SpeechDataModule) -> list[str]:
    """Compare the recordings and texts of train, dev and the test splits.

    Splits that are published as disjoint are not decoded for it. Of a stream the first `COMPARED` utterances are
    compared; it compares the others as it reads them.

    Returns:
        A line for each pair of splits that share dev recordings, or texts of train and test.

    Raises:
        UserError: a recording is in train and in a test split.
    """
    train, is_whole = training_start(data)
    dev = data.utterances("dev")
    of_train = "train" if is_whole else f"the first {len(train)} utterances of train"
    lines = (
        []
        if is_whole
        else [f"train: {len(train)} utterances are compared with the other splits, the rest as read"]
    )
    texts = shared_texts(data, train).counts
    for split in data.test_splits:
        test = data.utterances(split)
        if pairs := shared_audio(train, test, data.is_disjoint, data.max_corrupt > 0):
            one, two = pairs[0]
            raise UserError(
                f"{split}: {len(pairs)} of its {len(test)} recordings are in {of_train} too, such as {two.id!r} (in "
                f"train {one.id!r}); must be none, as a model cannot be tested on what it was trained on; take them out"
            )
        if texts[split]:
            lines.append(f"{split}: {texts[split]} of its {len(test)} texts are in {of_train} too")
        if pairs := shared_audio(dev, test, data.is_disjoint):
            lines.append(
                f"{split}: {len(pairs)} of its {len(test)} recordings are in dev too, which chose the model"
            )
    if pairs := shared_audio(train, dev, data.is_disjoint, data.max_corrupt > 0):
        lines.append(
            f"dev: {len(pairs)} of its {len(dev)} recordings are in {of_train} too: its error rate flatters"
        )
    return lines


def training_start(data: SpeechDataModule) -> tuple[Sequence[Utterance], bool]:
    """The training utterances that are compared, and whether they are all; those of a stream that can be read."""
    if data.can_list("train"):
        return data.utterances("train"), True
    first = list(islice(data.training_items(), COMPARED + 1))
    return first[:COMPARED], len(first) <= COMPARED


def shared_texts(data: SpeechDataModule, train: Sequence[Utterance] | None = None) -> SharedTexts:
    """How many utterances of each test split have a text of train."""
    train, is_whole = training_start(data) if train is None else (train, True)
    texts = {item.text for item in train}
    counts = {split: sum(item.text in texts for item in data.utterances(split)) for split in data.test_splits}
    return SharedTexts(counts, len(train), is_whole)


class KnownRecordings:
    """Recordings of the test splits, of which a stream asks with each recording that it reads.

    Args:
        splits: test split -> its utterances.

    Raises:
        UserError: one of them cannot be read.
    """

    def __init__(self, splits: Mapping[str, Sequence[Utterance]]) -> None:
        self._begins: dict[str | None, list[tuple[str, Utterance]]] = {}
        self._contents: dict[Recording, str] = {}  # of those that something began alike with
        for split, items in splits.items():
            for start, item in zip(_each(_start_of, items), items, strict=True):
                self._begins.setdefault(start, []).append((split, item))

    def check(self, item: Utterance) -> None:
        """Compare a training recording with all of them; only what begins alike is read whole.

        Raises:
            UserError: it is one of them, or it cannot be read.
        """
        alike = self._begins.get(_start_of(item), [])
        content = _content_of(item) if alike else ""
        for split, test in alike:
            if test.audio not in self._contents:  # many begin with silence: each is read once
                self._contents[test.audio] = _content_of(test)
            if self._contents[test.audio] == content:
                raise LeakError(
                    f"{split}: its recording {test.id!r} is in train too (there {item.id!r}, {item.audio}); must be in "
                    "test alone, as a model cannot be tested on what it was trained on; take it out of train"
                )


class LeakError(UserError):
    """A recording that is in train and in a test split; no fault of the file, so that it is never skipped."""


def shared_audio(
    one: Sequence[Utterance], two: Sequence[Utterance], by_file: bool = False, skip_unreadable: bool = False
) -> list[Pair]:
    """Utterances of `one` and `two` with the same samples, each of `two` at most once, in its order.

    Only recordings of equal duration are opened, and only those that begin alike are read whole.

    Args:
        one: a split.
        two: another one.
        by_file: compare the names of the files alone.
        skip_unreadable: leave out what cannot be read of `one`; it is counted where it is trained on.

    Raises:
        UserError: a recording cannot be read.
    """
    files = {item.audio: item for item in one}
    found = {index: files[item.audio] for index, item in enumerate(two) if item.audio in files}
    if not by_file:
        rest = {index: item for index, item in enumerate(two) if index not in found}
        others, mine = _alike(_steps, _nearby, one, list(rest.values()))
        others, mine = _alike(_start_of, _alone, others, mine, skip_unreadable)
        whole: dict[str | None, Utterance] = dict(
            zip(_each(_content_of, others, skip_unreadable), others, strict=True)
        )
        keys = dict(zip((item.audio for item in mine), _each(_content_of, mine), strict=True))
        matches = {index: whole.get(keys.get(item.audio, "")) for index, item in rest.items()}
        found |= {index: match for index, match in matches.items() if match is not None}
    return [(found[index], two[index]) for index in sorted(found)]


def _alike(
    key: Callable[[Utterance], _Key],
    around: Callable[[_Key], Iterable[_Key]],
    one: Sequence[Utterance],
    two: Sequence[Utterance],
    skip_unreadable: bool = False,
) -> tuple[list[Utterance], list[Utterance]]:
    """Those of each side whose key is around one of the other side's."""
    ones, twos = _each(key, one, skip_unreadable), _each(key, two)
    reached = {near for item in ones if item is not None for near in around(item)} & set(twos)
    wanted = {near for item in reached for near in around(item)}
    return (
        [item for item, found in zip(one, ones, strict=True) if found in wanted],
        [item for item, found in zip(two, twos, strict=True) if found in reached],
    )


def _each(
    key: Callable[[Utterance], _Key], items: Sequence[Utterance], skip_unreadable: bool = False
) -> list[_Key | None]:
    """The key of each, None for what cannot be read and may be skipped."""

    def key_of(item: Utterance) -> _Key | None:
        try:
            return key(item)
        except UserError:
            if not skip_unreadable:
                raise
            return None

    with ThreadPoolExecutor(max_workers=8) as pool:  # mostly waits for the disk
        return list(pool.map(key_of, items))


def _steps(item: Utterance) -> int:
    return round(item.duration_s * _STEPS_PER_S)


def _nearby(steps: int) -> Iterable[int]:
    return (steps - 1, steps, steps + 1)


def _alone(key: _Key) -> Iterable[_Key]:
    return (key,)


def _start_of(item: Utterance) -> str:
    return _hash_of(*read_start(item.audio, START))


def _content_of(item: Utterance) -> str:
    return content_sha256(item.audio)


def content_sha256(audio: Recording) -> str:
    """Hash of the samples, channels averaged and rounded to 16 bits, and their rate: WAV and FLAC are one."""
    return _hash_of(*read_audio(audio))


def _hash_of(samples: Samples, rate: int) -> str:
    digest = hashlib.sha256(f"{rate}|".encode())
    digest.update(np.rint(average_channels(samples) * np.float32(32_768)).astype("<i4").tobytes())
    return digest.hexdigest()
