"""What an audio file says of its own length, and whether its bytes bear it out.

libsndfile repairs silently what these checks refuse: it takes a truncated WAV, AIFF, AU, W64 or RF64 file for a shorter
one, stops where an Ogg page is damaged, and believes a FLAC header that counts too few samples.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

SAMPLES_PER_BYTE = 8_192  # no codec packs more: FLAC's longest frame of silence has 65,535 samples in 9 bytes
_UNKNOWN_WAV_SIZE = 0x7FFF0000  # programs that write into a pipe put 0x7FFFF000, 0x80000000 or 0xFFFFFFFF
_TAG_BYTES = 4_096  # what follows the audio and is no chunk: a tag, not the rest of the recording
_FLAC_BYTES = {"PCM_S8": 1, "PCM_16": 2, "PCM_24": 3}
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def is_believable(frames: int, size: int) -> bool:
    """Whether a file of `size` bytes can hold the `frames` that its header counts; unknown ones are 2^63 - 1.

    >>> is_believable(16_000, 20_000), is_believable(2**63 - 1, 20_000)
    (True, False)
    """
    return 0 <= frames <= size * SAMPLES_PER_BYTE


def fault_of(file: BinaryIO) -> str:
    """What is wrong with the bytes of an audio file, "" where nothing is seen.

    Args:
        file: open at its beginning, and left there.
    """
    start = file.read(12)
    size = file.seek(0, os.SEEK_END)
    if start[:4] == b"RIFF" and start[8:] == b"WAVE":
        fault = _wav_fault(file, size)
    elif start[:4] == b"OggS":
        fault = _ogg_fault(file)
    else:
        fault = _cut(_size_by_header(file, start) > size)
    file.seek(0)
    return fault


def matches_flac_md5(file: BinaryIO, samples: NDArray[np.float32], subtype: str) -> bool:
    """Whether decoded samples are those that a FLAC file was made of, by the MD5 in its header; True where it has none.

    Args:
        file: open at its beginning, and left there.
        samples: `(S, channels)` in [-1, 1].
        subtype: soundfile's name of their kind.
    """
    start = file.read(42)
    file.seek(0)
    md5, width = start[26:42], _FLAC_BYTES.get(subtype, 0)
    rare_depth = (int.from_bytes(start[20:22]) >> 4 & 31) + 1 != 8 * width  # such as 12 bits in a file of 16
    if start[:4] != b"fLaC" or rare_depth or not any(md5):
        return True
    integers = np.rint(samples.reshape(-1) * np.float32(2 ** (8 * width - 1))).astype("<i4")
    content = integers.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    return hashlib.md5(content, usedforsecurity=False).digest() == md5


def _cut(is_cut: bool) -> str:
    return "is truncated: the file ends before its audio does" if is_cut else ""


def _wav_fault(file: BinaryIO, size: int) -> str:
    """Of the data chunk past the end of the file, or of one that ends before the audio does."""
    position, has_data = 12, False
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        if has_data and not _is_chunk(header[:4], size - position - 8 - length):
            break
        if header[:4] == b"data":
            if length >= _UNKNOWN_WAV_SIZE:
                return ""
            if position + 8 + length > size:
                return _cut(True)
            has_data = True
        position += 8 + length + length % 2
    file.seek(min(position, size))
    if has_data and size - position > _TAG_BYTES and any(file.read()):
        return f"is corrupt: {size - position} bytes follow the audio that its header counts"
    return ""


def _is_chunk(name: bytes, bytes_after: int) -> bool:
    return bytes_after >= -1 and all(32 <= byte < 127 for byte in name)


def _size_by_header(file: BinaryIO, start: bytes) -> int:
    """Bytes of the file by its header, of the formats that libsndfile cuts silently; 0 of others and unknown ones."""
    file.seek(0)
    head = file.read(48)
    kind = start[:4]
    if kind == b"FORM":  # AIFF
        length = 8 + int.from_bytes(head[4:8])
    elif kind == b".snd":  # AU: offset, bytes of audio
        length = int.from_bytes(head[4:8]) + int.from_bytes(head[8:12])
    elif kind in (b"RF64", b"BW64") and head[12:16] == b"ds64":
        length = 8 + int.from_bytes(head[20:28], "little")
    elif kind == b"riff":  # W64
        length = int.from_bytes(head[16:24], "little")
    else:
        return 0
    return length if length < _UNKNOWN_WAV_SIZE or kind in (b"RF64", b"BW64", b"riff") else 0


def _ogg_fault(file: BinaryIO) -> str:
    """Of the pages of an Ogg file: each whole, none lost, the last one with the end-of-stream flag (RFC 3533)."""
    file.seek(0)
    content = file.read()
    expected: dict[bytes, int] = {}
    flags = 0
    for page in _ogg_pages(content):
        if page is None:
            return _cut(True)
        flags, serial = page[5], page[14:18]
        number = int.from_bytes(page[18:22], "little")
        if _ogg_checksum(page) != int.from_bytes(page[22:26], "little"):
            return f"is corrupt: its Ogg page {number} has another checksum"
        if number != expected.get(serial, number):
            return f"is corrupt: its Ogg page {expected[serial]} is missing"
        expected[serial] = number + 1
    return _cut(not flags & 4)


def _ogg_pages(content: bytes) -> Iterator[bytes | None]:
    """Each page; None for one that the file does not hold whole."""
    position = content.find(b"OggS")
    while position >= 0:
        count = content[position + 26] if position + 27 <= len(content) else 256
        table = content[position + 27 : position + 27 + count]
        end = position + 27 + count + sum(table)
        yield content[position:end] if len(table) == count and end <= len(content) else None
        position = content.find(b"OggS", end)


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 as Ogg computes it: zlib's with the bits of every byte and of the result in reverse, started from 0."""
    blank = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(blank.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
