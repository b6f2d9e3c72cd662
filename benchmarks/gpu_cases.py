"""What must be right on a GPU, as command lines of train.py, evaluate.py and `benchmarks.gpu_equal`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.result_file import ROOT

MODELS = ("crdnn", "wav2vec2")
ATTENTION = "crdnn_attention"  # shares the CRDNN's encoder: two presets, killed and resumed
PRESETS = (  # the slowest first
    *("adaround", "low_bit", "stochastic", "deterministic", "quant_noise"),
    *("ptq", "ptq_max", "ptq_mse", "ptq_percentile", "ptq_entropy", "dynamic", "off"),
)
OBSERVERS = ("max", "percentile", "mse", "entropy")
FRAME_RULES = {
    "crdnn": "[{match: dnn, activation_granularity: frame}]",
    "wav2vec2": '[{match: "*conv_layers.0.conv", activation_bits: 0}, '
    "{match: feature_extractor, activation_granularity: frame}]",
}
SHORT = (  # of every run: four steps, a few utterances
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4", "--trainer.limit_val_batches", "1"),
    *("--data.max_train_utterances", "64", "--data.max_test_utterances", "2", "--wandb.enabled", "false"),
    *("--qat.calibration_utterances", "8", "--qat.reconstruction_utterances", "8"),
    *("--qat.ada_round_steps", "20", "--trainer.log_every_n_steps", "1"),
)
RESUMABLE = (
    *("--evaluation.enabled", "false", "--save_every_steps", "2"),
    *("--trainer.limit_train_batches", "6", "--trainer.deterministic", "true"),
)
KILLER = "[{class_path: benchmarks.gpu_kill.KillAt, init_args: {step: 3}}]"
KILLED = -9
TINY = {  # for a rehearsal; the attention model keeps its checkpoint, which brings its tokenizer
    "crdnn": (
        *("--model.n_mels", "8", "--model.cnn_channels", "[4, 4]", "--model.rnn_neurons", "8"),
        *("--model.dnn_neurons", "8", "--model.init_from", "null"),
    ),
    "wav2vec2": (
        *("--model.init_from", "null", "--model.teacher", "null", "--model.config"),
        "{conv_dim: [8, 8, 8, 8, 8, 8, 8], hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, "
        "num_attention_heads: 2, num_conv_pos_embeddings: 8, num_conv_pos_embedding_groups: 4, "
        "do_stable_layer_norm: true, apply_spec_augment: false, layerdrop: 0.0}",
    ),
}
QUICK = (
    *(
        "crdnn deterministic",
        "crdnn stochastic",
        "crdnn low_bit",
        "wav2vec2 deterministic",
        "wav2vec2 stochastic",
    ),
    *("wav2vec2 low_bit", "wav2vec2 ptq_mse", "crdnn 16-mixed", "wav2vec2 bf16-mixed"),
    *("crdnn without a GPU", "crdnn files", "crdnn ranges, percentile", "wav2vec2 ranges, percentile"),
    *("wav2vec2 uninterrupted", "wav2vec2 killed", "wav2vec2 resumed", "rounding"),
)


@dataclass(frozen=True)
class Place:
    """Where the cases run.

    Args:
        folder: of their runs.
        accelerator: gpu or cpu.
        gpus: how many there are.
        tiny: tiny models with random weights, for a rehearsal.
    """

    folder: Path
    accelerator: str = "gpu"
    gpus: int = 1
    tiny: bool = False

    def run(self, name: str) -> Path:
        """Folder of a run."""
        return self.folder / name.replace(" ", "-").replace(",", "")


@dataclass(frozen=True)
class Command:
    """A Python command.

    Args:
        arguments: after the interpreter.
        sees_gpu: whether it may.
        status: that it must end with; negative: the signal that must kill it.
    """

    arguments: tuple[str, ...]
    sees_gpu: bool = True
    status: int = 0


@dataclass(frozen=True)
class Case:
    """Commands that must run, one after another.

    Args:
        group: what cases of its kind show.
        name: of the case.
        commands: each must end with its status.
        report: run folder that must then hold the report of a finished run.
        quantized: whether this report must be of an integer file.
        needs: cases that must have passed before.
        not_run: reason why it cannot run here; empty where it can.
    """

    group: str
    name: str
    commands: tuple[Command, ...]
    report: Path | None = None
    quantized: bool = True
    needs: tuple[str, ...] = ()
    not_run: str = ""


def cases(place: Place, quick: bool = False) -> list[Case]:
    """All cases, the longest first; a quick run's are `QUICK`."""
    found = [
        *preset_cases(place),
        *(case for model in (*MODELS, ATTENTION) for case in kill_cases(place, model)),
        *(case for model in MODELS for case in training_cases(place, model)),
        *(case for model in MODELS for case in device_cases(place, model)),
        Case("rounding", "rounding", (equal("rounding", "--device", device_of(place)),)),
    ]
    return [case for case in found if case.name in QUICK] if quick else found


def preset_cases(place: Place) -> Iterator[Case]:
    """Every preset of both CTC models, two of the attention model, to the report; the twin is measured once a model."""
    for preset in PRESETS:
        for model in (ATTENTION, *MODELS) if preset in ("deterministic", "stochastic") else MODELS:
            twin = str(preset == "deterministic").lower()
            yield trained("presets", f"{model} {preset}", place, model, preset, "--evaluation.twin", twin)


def training_cases(place: Place, model: str) -> Iterator[Case]:
    """Ways to train."""
    half = "16-mixed" if place.accelerator == "gpu" else "bf16-mixed"  # a CPU has no gradient scaler
    for group, name, preset, flags in (
        ("ranges per frame", "frames", "stochastic", ("--qat.rules", FRAME_RULES[model])),
        ("mixed precision", "bf16-mixed", "stochastic", ("--trainer.precision", "bf16-mixed")),
        (
            "mixed precision",
            "16-mixed",
            "deterministic",
            ("--qat.learn_scale", "true", "--trainer.precision", half),
        ),
        ("ddp", "ddp", "stochastic", ("--trainer.strategy", "ddp")),
        ("two GPUs", "two GPUs", "stochastic", ("--trainer.devices", "2", "--trainer.strategy", "ddp")),
        ("accumulated gradients", "accumulated", "stochastic", ("--trainer.accumulate_grad_batches", "2")),
        ("compile", "compile", "stochastic", ("--model.compile", "true")),
    ):
        reason = "one GPU" if group == "two GPUs" and place.gpus < 2 else ""
        flags = ("--evaluation.twin", "false", *flags)
        yield trained(group, f"{model} {name}", place, model, preset, *flags, not_run=reason)


def kill_cases(place: Place, model: str) -> Iterator[Case]:
    """A run that is killed inside its epoch and resumed, beside one that is not."""
    whole, cut = f"{model} uninterrupted", f"{model} killed"
    last = (str(place.run(whole) / "last.ckpt"), str(place.run(cut) / "last.ckpt"))
    killed = train(place, cut, model, "stochastic", *RESUMABLE, "--trainer.callbacks", KILLER)
    resumed = train(place, cut, model, "stochastic", *RESUMABLE, "--ckpt_path", "last")
    kill = Command(killed.arguments, status=KILLED)
    group = "killed and resumed"
    yield Case(group, whole, (train(place, whole, model, "stochastic", *RESUMABLE),))
    yield Case(group, cut, (kill, resumed))
    yield Case(group, f"{model} resumed", (equal("weights", *last),), needs=(whole, cut))


def device_cases(place: Place, model: str) -> Iterator[Case]:
    """The same with a GPU and without."""
    device, first, second = device_of(place), f"{model} stochastic", f"{model} deterministic"
    folder, other = place.run(first), place.run(second)
    audio = min((ROOT / "datamodules/mini/audio/test_seen").glob("*.opus"))
    without = (
        ("report", str(folder), "--repeats", "20"),
        ("compare", str(other), str(folder), "--no-wandb", "--out", str(place.run(f"{model} comparison"))),
        ("transcribe", str(folder), str(audio)),
    )
    commands = tuple(Command(("evaluate.py", *arguments), sees_gpu=False) for arguments in without)
    yield Case("without a GPU", f"{model} without a GPU", commands, folder, needs=(first, second))
    checkpoint, files = (
        folder / "model.ckpt",
        [place.run(f"{model} {where}.onnx") for where in ("gpu", "cpu")],
    )
    export = (
        equal("export", str(checkpoint), str(files[0]), "--device", device),
        Command(equal("export", str(checkpoint), str(files[1]), "--device", "cpu").arguments, sees_gpu=False),
        equal("files", *map(str, files)),
    )
    yield Case("exported files", f"{model} files", export, needs=(first,))
    for observer in OBSERVERS:
        ranges = equal("ranges", model, observer, "--device", device)
        yield Case("ranges on CPU and GPU", f"{model} ranges, {observer}", (ranges,))


def device_of(place: Place) -> str:
    """What PyTorch calls the device."""
    return "cpu" if place.accelerator == "cpu" else "cuda"


def trained(
    group: str, name: str, place: Place, model: str, preset: str, *flags: str, not_run: str = ""
) -> Case:
    """A run to its report."""
    command = train(place, name, model, preset, *flags)
    return Case(group, name, (command,), place.run(name), preset != "off", not_run=not_run)


def train(place: Place, name: str, model: str, preset: str, *flags: str) -> Command:
    """A run of train.py; later flags win."""
    first = ("train.py", "--config", f"configs/mini_{model}.yaml", "--qat", preset, *SHORT)
    cache = ("--evaluation.cache", str(place.folder / "float_cache"))  # of float files, which many runs share
    where = ("--trainer.accelerator", place.accelerator, "--trainer.devices", "1", *cache)
    small = TINY.get(model, ()) if place.tiny else ()
    return Command((*first, *where, *small, "--run", str(place.run(name)), *flags))


def equal(what: str, *arguments: str) -> Command:
    """A comparison of `benchmarks.gpu_equal`."""
    return Command(("-m", "benchmarks.gpu_equal", what, *arguments))


def wrong_report(folder: Path, quantized: bool) -> str:
    """What is wrong with the report of a run; empty where nothing is."""
    path = folder / "report.json"
    if not path.is_file():
        return f"{path}: is not there"
    rows = json.loads(path.read_text())
    if not rows:
        return f"{path}: holds no row"
    if not all(math.isfinite(row["wer"]) for row in rows):
        return f"{path}: a word error rate is not finite"
    if quantized and not any(row["integer_nodes"] for row in rows):
        return f"{path}: no row is of an integer file"
    return ""
