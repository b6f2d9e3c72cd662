"""What audio files say of their length, believed only where their bytes bear it out."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from datamodules.audio_header import fault_of, is_believable, matches_flac_md5
from tests.datamodules.corpora import sine

NOISE = 0.1 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)


def audio_bytes(kind: str, subtype: str, samples: np.ndarray = NOISE) -> bytearray:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=kind, subtype=subtype)
    return bytearray(file.getvalue())


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "AIFF", "AU", "W64", "RF64", "FLAC"])
def test_a_whole_file_has_no_fault_and_half_of_it_has(kind: str) -> None:
    whole = audio_bytes(kind, "PCM_16")
    assert fault_of(io.BytesIO(whole)) == ""
    if kind != "FLAC":  # whose decoder stops with an error
        assert fault_of(io.BytesIO(whole[: len(whole) // 2])).startswith("is truncated")


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_one_flipped_bit_in_an_ogg_file_is_a_fault(subtype: str, share: float) -> None:
    content = audio_bytes("OGG", subtype)
    assert fault_of(io.BytesIO(content)) == ""
    content[int(share * len(content))] ^= 1
    assert fault_of(io.BytesIO(content)).startswith("is corrupt: its Ogg page")


def test_a_lost_ogg_page_is_a_fault() -> None:
    content = audio_bytes("OGG", "OPUS")
    second = content.index(b"OggS", 4)
    third = content.index(b"OggS", second + 4)
    fourth = content.index(b"OggS", third + 4)
    assert fault_of(io.BytesIO(content[:third] + content[fourth:])) == "is corrupt: its Ogg page 2 is missing"


def test_audio_after_a_data_chunk_that_is_too_short_is_a_fault_and_a_tag_is_none() -> None:
    content = audio_bytes("WAV", "PCM_16")
    assert fault_of(io.BytesIO(content + b"TAG" + bytes(125))) == ""
    at = content.index(b"data") + 4
    content[at : at + 4] = (20_000).to_bytes(4, "little")
    assert "bytes follow the audio that its header counts" in fault_of(io.BytesIO(content))


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_flac_samples_match_their_md5_and_fewer_do_not(subtype: str) -> None:
    content = audio_bytes("FLAC", subtype, np.stack([NOISE, sine(3.0)], axis=1))
    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    assert matches_flac_md5(io.BytesIO(content), samples, subtype)
    assert not matches_flac_md5(io.BytesIO(content), samples[:-1], subtype)
    content[26:42] = bytes(16)
    assert matches_flac_md5(io.BytesIO(content), samples[:-1], subtype), "it has none"


def test_silence_is_believed_however_well_it_packs() -> None:
    for kind, subtype in (("FLAC", "PCM_16"), ("OGG", "OPUS"), ("OGG", "VORBIS")):
        samples = np.zeros(960_000, np.float32)
        assert is_believable(len(samples), len(audio_bytes(kind, subtype, samples)))
