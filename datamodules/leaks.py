"""Recordings that are in two splits, found by what they sound like: ids and file names say nothing."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from datamodules.audio_file import Recording, Samples, average_channels, read_audio, read_start
from datamodules.base import SpeechDataModule
from datamodules.utterance import Utterance
from qat.system.errors import UserError

START = 4_000  # samples that tell most recordings apart
_STEPS_PER_S = 100  # durations in manifests may be rounded to two decimals
_Key = TypeVar("_Key")

Pair = tuple[Utterance, Utterance]


def check_leaks(data: SpeechDataModule) -> list[str]:
    """Compare the recordings and texts of train, dev and the test splits.

    Splits that are published as disjoint, and streams, are not decoded for it.

    Returns:
        A line for each pair of splits that share dev recordings, or texts of train and test.

    Raises:
        UserError: a recording is in train and in a test split.
    """
    lines = []
    train = data.utterances("train") if data.can_list("train") else []
    dev = data.utterances("dev")
    for split in data.test_splits:
        test = data.utterances(split)
        if pairs := shared_audio(train, test, data.is_disjoint):
            one, two = pairs[0]
            raise UserError(
                f"{split}: {len(pairs)} of its {len(test)} recordings are in train too, such as {two.id!r} (in train "
                f"{one.id!r}); must be none, as a model cannot be tested on what it was trained on; take them out"
            )
        texts = {item.text for item in train}
        if count := sum(item.text in texts for item in test):
            lines.append(f"{split}: {count} of its {len(test)} texts are in train too")
        if pairs := shared_audio(dev, test, data.is_disjoint):
            lines.append(
                f"{split}: {len(pairs)} of its {len(test)} recordings are in dev too, which chose the model"
            )
    if pairs := shared_audio(train, dev, data.is_disjoint):
        lines.append(
            f"dev: {len(pairs)} of its {len(dev)} recordings are in train too: its error rate flatters"
        )
    return lines


def shared_audio(one: Sequence[Utterance], two: Sequence[Utterance], by_file: bool = False) -> list[Pair]:
    """Utterances of `one` and `two` with the same samples, each of `two` at most once, in its order.

    Only recordings of equal duration are opened, and only those that begin alike are read whole.

    Args:
        one: a split.
        two: another one.
        by_file: compare the names of the files alone.

    Raises:
        UserError: a recording cannot be read.
    """
    files = {item.audio: item for item in one}
    found = {index: files[item.audio] for index, item in enumerate(two) if item.audio in files}
    if not by_file:
        rest = {index: item for index, item in enumerate(two) if index not in found}
        others, mine = _alike(_steps, _nearby, one, list(rest.values()))
        others, mine = _alike(_start_of, _alone, others, mine)
        whole = dict(zip(_each(_content_of, others), others, strict=True))
        keys = dict(zip((item.audio for item in mine), _each(_content_of, mine), strict=True))
        matches = {index: whole.get(keys.get(item.audio, "")) for index, item in rest.items()}
        found |= {index: match for index, match in matches.items() if match is not None}
    return [(found[index], two[index]) for index in sorted(found)]


def _alike(
    key: Callable[[Utterance], _Key],
    around: Callable[[_Key], Iterable[_Key]],
    one: Sequence[Utterance],
    two: Sequence[Utterance],
) -> tuple[list[Utterance], list[Utterance]]:
    """Those of each side whose key is around one of the other side's."""
    ones, twos = _each(key, one), _each(key, two)
    reached = {near for item in ones for near in around(item)} & set(twos)
    wanted = {near for item in reached for near in around(item)}
    return (
        [item for item, found in zip(one, ones, strict=True) if found in wanted],
        [item for item, found in zip(two, twos, strict=True) if found in reached],
    )


def _each(key: Callable[[Utterance], _Key], items: Sequence[Utterance]) -> list[_Key]:
    with ThreadPoolExecutor(max_workers=8) as pool:  # mostly waits for the disk
        return list(pool.map(key, items))


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
