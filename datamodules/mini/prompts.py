"""The real recordings: Asterisk core sounds (G.722, one professional speaker) and their transcripts."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.audio_file import SAMPLE_RATE
from datamodules.mini.audio import CorpusError, Signal, run
from datamodules.mini.grammar import UNITS
from datamodules.text import ALPHABET

SOUNDS_PACKAGE = "asterisk-core-sounds-en-g722"
TEXT_PACKAGE = "asterisk-core-sounds-en"
SPEAKER, LICENSE = "allison", "CC-BY-SA-3.0"
MAX_SECONDS = 15.0

# acronyms that are spoken letter by letter; any other all-capital word drops its prompt
SPELLED = {"PBX": "p b x", "IVR": "i v r", "IP": "i p", "USB": "u s b", "MGCP": "m g c p", "A.M.": "a m",
           "P.M.": "p m", "3D": "three d"}  # fmt: skip
# slips of the transcript (the recording says the word on the right) and hyphens inside one word
FIXES = {"umute": "unmute", "fourtieth": "fortieth", "represenatives": "representatives", "thru": "through",
         "exclaimation": "exclamation", "de-activated": "deactivated", "re-record": "rerecord",
         "re-enter": "reenter", "re-entered": "reentered"}  # fmt: skip
# transcripts whose slips have no certain correction
UNSURE = frozenset({"unidentified-no-callback"})


@dataclass(frozen=True)
class Prompt:
    """One recording with its normalised transcript."""

    key: str
    text: str
    path: Path


def normalise(raw: str) -> str | None:
    """Return the transcript in lower case within the alphabet, or ``None`` where its words are uncertain."""
    text = re.sub(r"(?<=\w) \[.\]$", "", raw.strip())  # "slash [/]": the bracket only shows the symbol
    odd = re.search(r"[\[\]()<>@]|\d\.\d|\w\.\w+\.\w", text)
    if not text or (odd and text not in SPELLED):
        return None
    for acronym, letters in SPELLED.items():
        text = re.sub(rf"(?<!\w){re.escape(acronym)}(?!\w)", letters, text)
    text = text.replace("#", " pound ").replace("*", " star ")
    words: list[str] = []
    for token in re.split(r"[\s,;:!?]+|\.+(?:\s|$)|(?<=\s)\.+|^\.+", text):
        word = FIXES.get(token.lower().strip('"'), token.strip('"'))
        words += word.split("-")
    out = []
    for word in filter(None, words):
        if re.fullmatch(r"\d", word):
            out.append(UNITS[int(word)])
        elif re.search(r"\d", word) or re.fullmatch(r"[A-Z]{2,}", word):
            return None
        else:
            out.append(word.lower())
    joined = " ".join(out)
    return joined if joined and set(joined) <= set(ALPHABET) else None


def plausible(text: str, seconds: float) -> bool:
    """Whether a trimmed recording can hold the text: very slow or very fast ones are wrong transcripts."""
    return 0.12 + 0.038 * len(text) <= seconds <= 1.3 + 0.12 * len(text) and seconds <= MAX_SECONDS


def package_files(package: str) -> list[Path]:
    """Files of an installed Debian package."""
    return [Path(line) for line in run(["dpkg-query", "-L", package]).decode().splitlines()]


def read_transcripts(path: Path) -> dict[str, str]:
    """Read ``name: text`` lines (``;`` starts a comment); the file may be gzip-compressed."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = (line.strip() for line in raw.decode("utf-8", "replace").splitlines())
    pairs = (line.partition(":") for line in lines if line and not line.startswith(";"))
    return {name.strip(): text.strip() for name, _, text in pairs}


def load_prompts(sounds: Path | None, transcripts: Path | None) -> list[Prompt]:
    """List the usable prompts, sorted by name; without folders given, the installed packages are used."""
    if sounds is None:
        folders = {path.parent for path in package_files(SOUNDS_PACKAGE) if path.suffix == ".g722"}
        if not folders:
            raise CorpusError(
                f"no recordings found; must be a folder of .g722 files; install {SOUNDS_PACKAGE} or give --prompts"
            )
        sounds = min(folders, key=lambda folder: len(folder.parts))
    if transcripts is None:
        files = package_files(TEXT_PACKAGE)
        transcripts = next((path for path in files if path.name.startswith("core-sounds-en.txt")), None)
    if transcripts is None or not transcripts.is_file():
        raise CorpusError(
            f"no transcripts found; must be core-sounds-en.txt; install {TEXT_PACKAGE} or give --transcripts"
        )
    found = []
    for name, raw in sorted(read_transcripts(transcripts).items()):
        text = None if name in UNSURE else normalise(raw)
        path = sounds / f"{name}.g722"
        if text and path.is_file():
            found.append(Prompt(name, text, path))
    if not found:
        raise CorpusError(f"--prompts {sounds}: no usable recording; must be a folder of .g722 files")
    return found


def decode(path: Path) -> Signal:
    """Decode a headerless G.722 file (two 16 kHz samples per byte)."""
    raw = run(["ffmpeg", "-v", "error", "-f", "g722", "-i", str(path), "-f", "s16le", "-ac", "1", "-ar",
               str(SAMPLE_RATE), "-"])  # fmt: skip
    signal = np.frombuffer(raw, dtype="<i2").astype(np.float32) / np.float32(32768)
    expected = 2 * path.stat().st_size
    if abs(len(signal) - expected) > SAMPLE_RATE // 10:
        raise CorpusError(f"{path.name} decodes to {len(signal)} samples; must be {expected}; check ffmpeg")
    return signal.astype(np.float32)
