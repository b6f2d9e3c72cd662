"""What train.py takes: presets, the default configuration, and help in one screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qat.cli.order import in_order
from qat.runs import SPEECHBRAIN_FILE
from qat.system.errors import UserError
from qat.system.nearest import did_you_mean

ROOT = Path(__file__).resolve().parents[2]
PRESETS = ROOT / "configs" / "qat"
DEFAULT_CONFIG = ROOT / "configs" / "mini_crdnn.yaml"
SPEECHBRAIN_FLAG = "--model.speechbrain"

HELP = """usage: python train.py [--config FILE] [--qat PRESET] [--run NAME] [--ckpt_path last|best|PATH] [options]

  --config FILE            what to train on what (default configs/mini_crdnn.yaml; see configs/)
  --qat PRESET             {presets}
                           auto: search the fastest recipe that loses nothing on dev; or a YAML file of your own
  --auto.max_loss X        of auto: nats per frame; or --auto.max_latency MS, --auto.max_size_mb MB. Later flags win:
  --qat.weight_bits N      2 to 8, null keeps weights float        --qat.activation_bits N   likewise
  --qat.attention_bits N   2 to 8: products of a Wav2Vec2's attention on integers too (default: float)
  --qat.rounding R         nearest, stochastic                     --qat.learn_scale BOOL    learned scales
  --qat.weight_observer O  max, mse, percentile, entropy           --qat.activation_observer O
  --qat.ada_round BOOL     round by the output's error           --qat.bias_correction BOOL  mean error into the bias
  --qat.equalize E         none, cross_layer, smooth: channels of outliers  --qat.smooth_alpha A  share moved
  --qat.reduce_range R     auto, true, false: 7-bit weights where the CPU lacks VNNI
  --qat.rules LIST         ordered rules for groups or layer names (first match wins)
  --run NAME               run folder checkpoints/NAME (default MODEL-PRESET-TIME)
  --ckpt_path P            resume: last, best, or a file           --save_every_steps N     checkpoints inside epochs
  --model.speechbrain DIR  a pretrained folder of SpeechBrain as it is (attention CRDNN or Wav2Vec2)
  --model.lm L             of an attention model: quantize, float, none
  --model.teacher MODEL    follow a float model's frame posteriors (--model.distillation_weight 0 to 1)
  --model.* --data.* --trainer.*    fields of the model, the data module and Lightning's Trainer
  --decoding.beam N        hypotheses of an attention model's search  --decoding.lm_weight W  of its language model
  --qat.target T           onnxruntime; openvino, tensorrt (with --export.format qdq): whose arithmetic is trained
  --export.format F        onnxruntime, or qdq: standard operators, for --evaluation.engine openvino,
                           --evaluation.provider cuda, tensorrt
  --evaluation.* --wandb.*          how the report is measured; Weights & Biases
  --seed_everything N      seed of new weights, dropout and masking; --data.seed N that of batches and augmentation
  --help_all               every option with its type, default and meaning
"""


def help_text() -> str:
    """Our own options in one screen."""
    return HELP.format(presets=", ".join(preset_names()))


def expand_presets(args: Sequence[str]) -> list[str]:
    """`--qat NAME` -> `--qat configs/qat/NAME.yaml`; the default configuration where none is named.

    Raises:
        UserError: the preset is neither known nor a file; or see `default_config` and `in_order`.
    """
    expanded: list[str] = []
    pending = iter(args)
    for item in pending:
        name, equals, value = item.partition("=")
        if name != "--qat":
            expanded.append(item)
            continue
        expanded += ["--qat", preset_path(value if equals else next(pending, ""))]
    if not any(item in ("--config", "-c") or item.startswith("--config=") for item in expanded):
        expanded = ["--config", str(default_config(expanded)), *expanded]
    return in_order(expanded)


def default_config(args: Sequence[str]) -> Path:
    """The configuration of arguments that name none: where they name a folder of SpeechBrain, that of its layout.

    Raises:
        UserError: the folder's hyper-parameters cannot be read.
    """
    values = [*args, ""]
    folder = ""
    for item, after in zip(values, values[1:], strict=False):
        name, equals, value = item.partition("=")
        folder = (value if equals else after) if name == SPEECHBRAIN_FLAG else folder
    if not folder:
        return DEFAULT_CONFIG
    layout = "wav2vec2" if "wav2vec2" in folder.lower() else "attention"  # of a hub name not yet downloaded
    if (Path(folder) / SPEECHBRAIN_FILE).is_file():
        from qat.models.speechbrain_folder import folder_layout

        layout = folder_layout(folder)
    return ROOT / "configs" / f"speechbrain_{layout}.yaml"


def preset_names() -> list[str]:
    """Names that `--qat` takes."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_path(name: str) -> str:
    """File of a preset, or the user's own YAML file.

    Raises:
        UserError: it is neither; naming the nearest preset.
    """
    known = preset_names()
    if name in known:
        return str(PRESETS / f"{name}.yaml")
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return name
    near = did_you_mean(name, known)
    raise UserError(f"--qat {name!r}: must be one of {', '.join(known)}, or a YAML file{near}")
