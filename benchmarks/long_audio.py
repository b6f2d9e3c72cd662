"""Peak memory of `evaluate.py transcribe` on long recordings: `python -m benchmarks.long_audio`.

A recording is the mini corpus's test utterances one after the other, again and again. Models are the shipped ones after
calibration (`ptq_max`), exported before the first measurement; each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.result_file import ROOT, save, table
from datamodules.audio_file import SAMPLE_RATE, load_samples
from datamodules.mini_corpus import MiniDataModule

MODELS = ("mini_crdnn", "mini_wav2vec2")
# a process begins with the peak of the one that launched it, so that a small one must; prints kilobytes
LAUNCHER = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
COLUMNS = ("model", "precision", "audio_s", "peak_memory_mb", "seconds")


def write_recording(path: Path, seconds: float) -> Path:
    """A FLAC file of test utterances, of at least so many seconds."""
    data = MiniDataModule()
    items = [item for split in data.test_splits for item in data.utterances(split)]
    written = 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        for item in cycle(items):
            samples = load_samples(item.audio)
            file.write(np.clip(samples, -1.0, 1.0))
            written += len(samples)
            if written >= seconds * SAMPLE_RATE:
                return path
    raise AssertionError("cycle never ends")


def calibrated(name: str, run: Path) -> Path:
    """The run folder of a shipped model after calibration, which is done once."""
    if (run / "model.ckpt").is_file():
        return run
    command = [sys.executable, "train.py", "--config", f"configs/{name}.yaml", "--qat", "ptq_max"]
    subprocess.run(
        [*command, "--run", str(run), "--evaluation.enabled", "false", "--wandb.enabled", "false"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return run


def peak_of(command: Sequence[str]) -> tuple[float, float]:
    """Peak memory (MB) of a command's process, and the seconds that it took.

    Raises:
        CalledProcessError: it failed.
    """
    start_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return int(done.stdout.splitlines()[-1]) / 1000, time.perf_counter() - start_s


def transcription(target: Path, audio: Path) -> list[str]:
    """The command that transcribes a recording."""
    return [sys.executable, "evaluate.py", "transcribe", str(target), str(audio)]


def measure(target: Path, name: str, minutes: Sequence[float], folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each length; what is measured has been exported already."""
    peak_of(transcription(target, write_recording(folder / "short.flac", 1.0)))
    for length in minutes:
        audio = write_recording(folder / "long.flac", 60 * length)
        peak_mb, seconds = peak_of(transcription(target, audio))
        yield {
            "model": name,
            "precision": "integer",
            "audio_s": round(soundfile.info(audio).duration, 1),
            "peak_memory_mb": round(peak_mb, 1),
            "seconds": round(seconds, 1),
        }


def main() -> None:
    """Measure, write the result file, and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--minutes", nargs="+", type=float, default=[5.0, 60.0], help="lengths of recordings")
    parser.add_argument("--out", type=Path, help="result file; default: benchmarks/results/long_audio.json")
    parser.add_argument("--folder", type=Path, help="where models and recordings are kept; default: nowhere")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        folder = (options.folder or Path(made)).resolve()
        for name in options.models:
            for row in measure(calibrated(name, folder / name), name, options.minutes, folder):
                rows.append(row)
                save("long_audio", rows, options.out)
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    main()
