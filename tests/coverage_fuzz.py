"""Coverage-guided fuzzing (atheris) of the readers written in Python: `python -m tests.coverage_fuzz --seconds 120`.

Needs `pip install atheris`. Each reader is given bytes that reach ever more of its code, for so many seconds in a
process of its own, and must read them or refuse them in one line. What it does not is written down once for each place
in the code, and is mended with that input as a test.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from qat.system.errors import UserError

Reader = Callable[[bytes, Path], object]
GROUPS = {"cnn": ["cnn.*"], "head": ["head"]}
LAYERS = ("cnn.0.conv", "rnn", "head")
ROOT = Path(__file__).parents[1]
MODULES = {  # of each reader; only their branches are counted
    "hyper_parameters": ["qat.models.speechbrain_yaml", "qat.models.speechbrain_folder"],
    "manifest": ["datamodules.manifest"],
    "recipe": ["qat.recipe"],
    "audio_header": ["datamodules.audio_file"],
}
WORDS = {  # that bytes alone would take long to find
    "hyper_parameters": "!ref !new: !name: !copy !tuple !apply: !!python/name: <a> <a[b]> &x *x <<: modules: encoder: "
    "torch.nn.ModuleList torch.nn.LeakyReLU (1,2) // % 1e999 __a",
    "manifest": "id audio wav path text transcript duration_s speaker NaN Infinity 1e999 null true \\u0000 a.wav",
    "recipe": "preset weight_bits activation_bits rounding percentile rules match quantize equalize smooth_alpha seed "
    "reduce_range fold_batch_norm ada_round_steps calibration_utterances null true NaN 1e999 [] {} stochastic cnn * [a",
    "audio_header": "RIFF WAVE data fmt OggS fLaC FORM .snd RF64 BW64 ds64 riff OpusHead",
}


def hyper_parameters(data: bytes, folder: Path) -> None:
    """A `hyperparams.yaml` of SpeechBrain, and which layout it has."""
    from qat.models.speechbrain_folder import layout_of
    from qat.models.speechbrain_yaml import read_yaml

    path = folder / "hyperparams.yaml"
    path.write_bytes(data)
    layout_of(path, read_yaml(path))


def manifest(data: bytes, folder: Path) -> None:
    """A manifest; the first byte chooses its kind. Every utterance has a text and a length."""
    from datamodules.manifest import read_manifest

    path = folder / f"m{('.jsonl', '.csv', '.tsv')[data[0] % 3 if data else 0]}"
    path.write_bytes(data[1:])
    for item in read_manifest(path):
        assert 0 < item.duration_s < 1e6 and item.text and isinstance(item.id, str), item


def recipe(data: bytes, folder: Path) -> None:
    """Fields of a recipe in JSON: what is taken is the same after a round trip, and says what each layer gets."""
    from qat.recipe import Recipe

    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    found = Recipe.from_dict(values)
    assert Recipe.from_dict(found.to_dict()) == found
    for layer in LAYERS:
        found.for_layer(layer, GROUPS)
    found.check_rules(LAYERS, GROUPS)


def audio_header(data: bytes, folder: Path) -> None:
    """Bytes of an audio file: the same verdict twice; what is decoded is as long as it says."""
    import numpy as np

    from datamodules.audio_file import SAMPLE_RATE, load_samples, read_duration
    from datamodules.audio_header import fault_of

    assert fault_of(io.BytesIO(data)) == fault_of(io.BytesIO(data))
    path = folder / "a.wav"
    path.write_bytes(data)
    samples, seconds = load_samples(path), read_duration(path)
    assert np.isfinite(samples).all() and abs(len(samples) / SAMPLE_RATE - seconds) < 0.01, (
        len(samples),
        seconds,
    )


READERS: dict[str, Reader] = {
    item.__name__: item for item in (hyper_parameters, manifest, recipe, audio_header)
}


def seeds(name: str, folder: Path) -> None:
    """Valid inputs of a reader."""
    if name == "audio_header":
        write_audio(folder)
    elif name == "manifest":
        row = {"id": "0", "audio": "a.wav", "text": "one two", "duration_s": 0.5}
        line = ",".join(map(str, row.values()))
        (folder / "m.jsonl").write_text(f"\x00{json.dumps(row)}\n\n{json.dumps({**row, 'id': 1})}\n")
        (folder / "m.csv").write_text(f"\x01{','.join(row)}\n{line}\n")
    elif name == "recipe":
        rules = [{"match": "cnn", "weight_bits": 4}, {"match": "r*", "quantize": False, "rounding": None}]
        (folder / "recipe.json").write_text(json.dumps({"preset": "x", "percentile": 99.9, "rules": rules}))
        (folder / "small.json").write_text('{"seed": 1, "equalize": "none", "reduce_range": "auto"}')
    else:
        published = (ROOT / "tests" / "models" / "speechbrain_folders.py").read_text().split('"""')
        (folder / "modules.yaml").write_text(next(part for part in published if "!new:" in part))
        (folder / "small.yaml").write_text(
            "a: 2\nb: !ref <a> * (3 + 1)\nt: (1, 2)\nn: null\nc: !copy <t>\nmodules:\n    encoder: !ref <e>\n"
            "e: !new:torch.nn.ModuleList\n    - [!ref <b[c]>]\ndecoding_function: x\n"
        )


def write_audio(folder: Path) -> None:
    """A twentieth of a second in three formats."""
    import numpy as np
    import soundfile

    samples = 0.1 * np.random.default_rng(0).standard_normal(800)
    for name in ("a.wav", "a.flac", "a.ogg"):
        soundfile.write(folder / name, samples, 16_000)


def attempt(name: str, data: bytes, folder: Path) -> str:
    """What goes wrong with an input: a traceback, or several lines; empty where it is read or refused."""
    try:
        READERS[name](data, folder)
    except UserError as error:
        return f"several lines: {error}" if "\n" in str(error) else ""
    except Exception:
        return traceback.format_exc()
    return ""


def place_of(what: str) -> str:
    """Where in our code a traceback ends: one fault may be reached by many inputs."""
    places = re.findall(r'File ".*/((?:qat|datamodules)/.*)", line (\d+)', what)
    return ":".join(places[-1]) if places else what.strip().splitlines()[-1]


def fuzz(name: str, out: Path, seconds: int) -> None:
    """Fuzz one reader; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["qat", "datamodules"]):
        for module in MODULES[name]:
            import_module(module)
    work = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    corpus = work / "corpus"
    corpus.mkdir()
    seeds(name, corpus)
    if name == "manifest":
        write_audio(work)
    found: set[str] = set()

    def once(data: bytes) -> None:
        if (what := attempt(name, data, work)) and (place := place_of(what)) not in found:
            found.add(place)
            (out / f"{name}-{len(found)}.bin").write_bytes(data)
            (out / f"{name}-{len(found)}.txt").write_text(f"{place}\n{what}")

    words = work / "words"
    words.write_text("".join(f'"{word}"\n' for word in WORDS[name].replace("\\", "\\\\").split()))
    limits = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=4096", "-max_len=20000", "-seed=1"]
    atheris.Setup([sys.argv[0], *limits, f"-dict={words}", f"-artifact_prefix={out}/", str(corpus)], once)
    atheris.Fuzz()


def run(name: str, out: Path, seconds: int) -> dict[str, Any]:
    """Fuzz one reader in a process of its own; a row of the counts."""
    command = [sys.executable, "-m", "tests.coverage_fuzz", "--reader", name]
    done = subprocess.run(
        [*command, "--out", str(out), "--seconds", str(seconds)], capture_output=True, text=True, check=False
    )
    (out / f"{name}.log").write_text(done.stderr[-20_000:])
    runs = re.search(r"Done (\d+) runs", done.stderr)
    coverage = re.findall(r"cov: (\d+)", done.stderr)
    hung = [path.name for path in out.glob("*") if path.name.startswith(("timeout-", "crash-", "oom-"))]
    places = len(list(out.glob(f"{name}-*.bin"))) + len(hung)
    return {
        "reader": name,
        "inputs": int(runs[1]) if runs else None,
        "branches": int(coverage[-1]) if coverage else None,
        "wrong": places,
    }


def main() -> None:
    """Fuzz the readers one after the other, and print or keep the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="for each reader")
    parser.add_argument("--readers", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of inputs that went wrong, and of the counts"
    )
    parser.add_argument("--reader", choices=list(READERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.reader:
        return fuzz(options.reader, options.out, options.seconds)
    from benchmarks.result_file import save
    from qat.system.provenance import git_commit

    rows = []
    for name in options.readers:
        rows.append(run(name, options.out, options.seconds))
        print(rows[-1], flush=True)
    command = shlex.join(["python", "-m", "tests.coverage_fuzz", *sys.argv[1:]])
    save("coverage_fuzz", rows, options.out / "coverage_fuzz.json", command=command, git_commit=git_commit())
    sys.exit(1 if any(row["wrong"] for row in rows) else 0)


if __name__ == "__main__":
    main()
