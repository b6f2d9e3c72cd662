"""Kinds of input, of which each mutation must end with the right answer, or be refused in one line.

`python -m tests.fuzz_inputs [--count 1000] [--seed 0] [--kinds NAME ...]` runs many, and writes those that went wrong;
`--out FILE` keeps the counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

from benchmarks.result_file import save
from datamodules.audio_file import SAMPLE_RATE, load_samples, read_duration
from datamodules.manifest import read_manifest
from qat.cli.train import build_cli
from qat.models.loading import load_module, save_module
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.system.provenance import git_commit
from tests.conftest import build, write_hugging_face
from tests.fuzz import ODD, Kind, Random, attempt, damage, replaced


def make_audio(folder: Path) -> None:
    """The same second in three formats."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(8_000)
    for name in ("a.wav", "a.flac", "a.ogg"):
        soundfile.write(folder / name, samples, SAMPLE_RATE)


def mutate_audio(folder: Path, random: Random) -> list[str]:
    """Damage one of them, and remove the others."""
    chosen = folder / f"a.{random.choice(['wav', 'flac', 'ogg'])}"
    for path in folder.iterdir():
        if path != chosen:
            path.unlink()
    damage(chosen, random)
    return []


def use_audio(folder: Path, _: list[str]) -> str:
    """Samples are in their range, and as many as the duration says."""
    (path,) = folder.iterdir()
    samples, seconds = load_samples(path), read_duration(path)
    if not np.isfinite(samples).all() or np.abs(samples).max() > 1:
        return "samples out of range"
    if abs(len(samples) / SAMPLE_RATE - seconds) > 0.01:
        return f"{len(samples)} samples, but {seconds} s"
    return ""


def make_manifest(folder: Path) -> None:
    """Four clips, as JSON lines and as CSV."""
    make_audio(folder)
    rows = [{"id": f"{n}", "audio": "a.wav", "text": "one two", "duration_s": 0.5} for n in range(4)]
    (folder / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")


def mutate_manifest(folder: Path, random: Random) -> list[str]:
    """Damage the bytes of one, or replace a field."""
    chosen, other = random.permutation(["m.jsonl", "m.csv"])
    (folder / str(other)).unlink()
    path = folder / str(chosen)
    if random.random() < 0.5 or path.suffix == ".csv":
        damage(path, random)
    else:
        rows = replaced([json.loads(line) for line in path.read_text().splitlines()], random)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return []


def use_manifest(folder: Path, _: list[str]) -> str:
    """Every utterance has a text, a file and a length."""
    (path,) = folder.glob("m.*")
    found = read_manifest(path)
    wrong = [item for item in found if not (0 < item.duration_s < 1e6 and isinstance(item.text, str))]
    return f"utterances without a length or text: {wrong[:1]}" if wrong else ""


def make_run(folder: Path) -> None:
    """A tiny model, a corpus, and a configuration of both."""
    random = np.random.default_rng(0)
    save_module(build("crdnn"), folder / "start.ckpt")
    for split in ("train", "dev", "test"):
        lines = []
        for n in range(2):
            soundfile.write(folder / f"{split}{n}.wav", 0.1 * random.standard_normal(16_000), SAMPLE_RATE)
            lines.append(json.dumps({"id": f"{split}{n}", "audio": f"{split}{n}.wav", "text": "one two"}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    recipe = {"preset": "stochastic", "weight_bits": 4, "rules": [{"match": "cnn", "weight_bits": 8}]}
    config = {
        "seed_everything": 1,
        "run": "fuzzed",
        "model": {
            "class_path": "qat.models.CRDNNModule",
            "init_args": {**build("crdnn").hparams, "learning_rate": 1e-3, "warmup_steps": 1},
        },
        "data": {
            "class_path": "datamodules.ManifestDataModule",
            "init_args": {
                **{
                    split: str(folder.parent / "now" / f"{split}.jsonl") for split in ("train", "dev", "test")
                },
                "max_batch_s": 5.0,
            },
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "gradient_clip_val": 1.0},
        "qat": recipe,
        "evaluation": {"enabled": False, "threads": 1},
    }
    config["model"]["init_args"].pop("recipe", None)
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))))


def mutate_config(folder: Path, random: Random) -> list[str]:
    """Damage the bytes, or replace a value."""
    path = folder / "config.yaml"
    if random.random() < 0.2:
        damage(path, random)
    else:
        path.write_text(yaml.safe_dump(replaced(yaml.safe_load(path.read_text()), random)))
    return ["--config", str(path)]


FLAGS = (
    *(
        "--model.learning_rate",
        "--model.warmup_steps",
        "--model.dropout",
        "--model.rnn_layers",
        "--data.max_batch_s",
    ),
    *(
        "--data.num_workers",
        "--data.train",
        "--qat",
        "--qat.weight_bits",
        "--qat.rounding",
        "--qat.rules",
        "--run",
    ),
    *(
        "--trainer.max_epochs",
        "--trainer.precision",
        "--trainer.devices",
        "--trainer.gradient_clip_val",
        "--seed",
    ),
    *(
        "--evaluation.repeats",
        "--evaluation.beams",
        "--decoding.beam",
        "--save_every_steps",
        "--model.vocabulary",
    ),
)


def mutate_flags(folder: Path, random: Random) -> list[str]:
    """One or two flags with odd values after a valid configuration."""
    arguments = ["--config", str(folder / "config.yaml")]
    for _ in range(int(random.integers(1, 3))):
        value = ODD[int(random.integers(0, len(ODD)))]
        text = value if isinstance(value, str) else json.dumps(value)
        arguments += [FLAGS[int(random.integers(0, len(FLAGS)))], text.replace("\x00", "%00")]
    return arguments


def use_config(folder: Path, arguments: list[str]) -> str:
    """Everything up to the first step is built, in a working folder of its own."""
    before = Path.cwd()
    variables = dict(os.environ)
    os.chdir(folder)
    try:
        build_cli(arguments)
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)
    return ""


def make_checkpoint(folder: Path) -> None:
    """A tiny model."""
    save_module(build("crdnn"), folder / "model.ckpt")


def mutate_checkpoint(folder: Path, random: Random) -> list[str]:
    """Damage its bytes."""
    damage(folder / "model.ckpt", random)
    return []


def use_checkpoint(folder: Path, _: list[str]) -> str:
    """The weights are those that were saved."""
    expected = build("crdnn").state_dict()
    state = load_module(folder / "model.ckpt").state_dict()
    wrong = [key for key, value in expected.items() if not torch.equal(state[key], value)]
    return f"other values in {wrong[:3]}" if wrong else ""


def mutate_hugging_face(folder: Path, random: Random) -> list[str]:
    """Damage a file, remove it, or replace a field of one of the JSON files."""
    files = sorted(folder.iterdir())
    path = files[int(random.integers(0, len(files)))]
    choice = random.random()
    if choice < 0.1:
        path.unlink()
    elif choice < 0.4 or path.suffix != ".json":
        damage(path, random)
    else:
        path.write_text(json.dumps(replaced(json.loads(path.read_text()), random)))
    return []


def use_hugging_face(folder: Path, _: list[str]) -> str:
    """A label for each output, and finite logits."""
    module = Wav2Vec2Module(pretrained=str(folder)).eval()
    with torch.no_grad():
        logits, _frames = module(torch.zeros(1, 8_000), torch.tensor([8_000]))
    if logits.shape[-1] != len(module.vocabulary):
        return f"{logits.shape[-1]} outputs, {len(module.vocabulary)} labels"
    return "" if bool(logits.isfinite().all()) else "logits are not finite"


def make_hugging_face(folder: Path) -> None:
    """A tiny Wav2Vec2."""
    write_hugging_face(folder)


KINDS = {
    "audio": Kind(make_audio, mutate_audio, use_audio),
    "manifest": Kind(make_manifest, mutate_manifest, use_manifest),
    "config": Kind(make_run, mutate_config, use_config),
    "flags": Kind(make_run, mutate_flags, use_config),
    "checkpoint": Kind(make_checkpoint, mutate_checkpoint, use_checkpoint),
    "hugging_face": Kind(make_hugging_face, mutate_hugging_face, use_hugging_face),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="inputs of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--out", type=Path, help="file of the counts, written after each kind")
    options = parser.parse_args()
    wrong: Counter[str] = Counter()
    counts: list[dict[str, object]] = []
    each = -(-options.count // len(options.kinds))
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.kinds:
            (valid := Path(temporary) / name / "valid").mkdir(parents=True)
            KINDS[name].make(valid)
            for seed in range(options.seed, options.seed + each):
                if what := attempt(KINDS[name], valid, valid.with_name("now"), seed):
                    wrong[name] += 1
                    print(f"--- {name}, seed {seed}: {what}", flush=True)
            print(f"{name}: {each} inputs, {wrong[name]} wrong", flush=True)
            counts.append({"kind": name, "inputs": each, "wrong": wrong[name]})
            if options.out:
                command = shlex.join(["python", "-m", "tests.fuzz_inputs", *sys.argv[1:]])
                save("fuzz", counts, options.out, command=command, git_commit=git_commit())
    sys.exit(1 if wrong.total() else 0)


if __name__ == "__main__":
    main()
