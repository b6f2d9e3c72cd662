"""Signal helpers of the mini corpus: resampling, trimming, level, Ogg Opus encoding."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from datamodules.audio_file import SAMPLE_RATE

FRAME = 160  # 10 ms
MARGIN_S = 0.15
TARGET_RMS = 0.075  # of the speech frames, about -22.5 dBFS
PEAK = 0.9

Signal = NDArray[np.float32]


class CorpusError(RuntimeError):
    """What the build needs is missing or broken; the message is one clear line."""


def need_program(name: str, package: str = "") -> str:
    """Return the program's location, or raise an error that names it."""
    found = shutil.which(name)
    if found is None:
        hint = f", package {package}" if package else ""
        raise CorpusError(f"missing program: {name}; must be installed{hint}")
    return found


def run(command: list[str], stdin: bytes | None = None) -> bytes:
    """Run a program and return its standard output; a failure becomes one line."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise CorpusError(f"missing program: {command[0]}; must be installed") from error
    if done.returncode != 0:
        tail = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        raise CorpusError(f"{command[0]} failed with status {done.returncode}: {tail[0]}")
    return done.stdout


def resample(signal: Signal, rate: float, target: int = SAMPLE_RATE) -> Signal:
    """Resample in the frequency domain (band-limited); ``rate`` may be fractional, which shifts the pitch."""
    count = round(len(signal) * target / rate)
    if count == len(signal) or count < 2:
        return signal.astype(np.float32)
    padding = np.zeros(int(rate) // 10, dtype=np.float32)  # keeps the wrap-around out of the speech
    padded = np.concatenate([signal, padding])
    length = round(len(padded) * target / rate)
    spectrum = np.fft.rfft(padded)
    wanted = np.zeros(length // 2 + 1, dtype=spectrum.dtype)
    keep = min(len(wanted), len(spectrum))
    wanted[:keep] = spectrum[:keep]
    return (np.fft.irfft(wanted, length) * (length / len(padded)))[:count].astype(np.float32)


def frame_rms(signal: Signal) -> NDArray[np.float64]:
    """Root mean square of each 10 ms frame."""
    frames = max(1, len(signal) // FRAME)
    padded = np.pad(signal, (0, max(0, frames * FRAME - len(signal))))[: frames * FRAME]
    return np.sqrt(np.mean(padded.astype(np.float64).reshape(frames, FRAME) ** 2, axis=1) + 1e-12)


def trim_and_level(signal: Signal, floor_db: float = -46.0) -> Signal:
    """Cut or fill the silence at both ends to 150 ms and bring the speech to a common level.

    Frames more than ``floor_db`` below the loudest one count as silence. Raises ``ValueError`` for silence.
    """
    energy = frame_rms(signal)
    if energy.max() < 1e-4:
        raise ValueError("the signal is silent")
    loud = np.flatnonzero(energy > energy.max() * 10 ** (floor_db / 20))
    margin = round(MARGIN_S * SAMPLE_RATE)
    start, stop = int(loud[0]) * FRAME - margin, (int(loud[-1]) + 1) * FRAME + margin
    before, after = max(0, -start), max(0, stop - len(signal))
    cut = np.pad(signal[max(0, start) : stop], (before, after))
    speech = energy[loud[0] : loud[-1] + 1]
    active = speech[speech > energy.max() * 0.05]
    gain = TARGET_RMS / float(np.sqrt(np.mean(active**2)))
    gain = min(gain, PEAK / float(np.abs(cut).max()))
    ramp = np.ones(len(cut), dtype=np.float32)
    fade = round(0.01 * SAMPLE_RATE)
    ramp[:fade] = np.linspace(0, 1, fade)
    ramp[-fade:] = np.linspace(1, 0, fade)
    return (cut * gain * ramp).astype(np.float32)


def write_opus(path: Path, signal: Signal, bitrate: float, serial: int) -> None:
    """Encode 16 kHz mono speech as Ogg Opus (VBR, 40 ms frames); the same input gives the same bytes."""
    pcm = np.clip(np.round(signal * 32767), -32768, 32767).astype("<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    source = f"--quiet --raw --raw-bits 16 --raw-rate {SAMPLE_RATE} --raw-chan 1"
    coding = f"--bitrate {bitrate:g} --vbr --comp 10 --framesize 40 --speech"
    container = f"--discard-comments --discard-pictures --padding 0 --serial {serial}"
    run(["opusenc", *f"{source} {coding} {container}".split(), "-", str(path)], pcm)


def check_opus(path: Path, samples: int) -> None:
    """Decode a written file and check rate, channels and length."""
    decoded, rate = sf.read(path, dtype="float32")
    if rate != SAMPLE_RATE or decoded.ndim != 1 or abs(len(decoded) - samples) > SAMPLE_RATE // 100:
        raise CorpusError(
            f"{path.name} decodes to {decoded.shape} at {rate} Hz; must be {samples} at {SAMPLE_RATE}; check opusenc"
        )
