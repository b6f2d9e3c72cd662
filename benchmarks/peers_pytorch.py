"""Quantizers of PyTorch modules in `benchmarks.peers`: torchao, ModelOpt and Brevitas; no file is exported."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.peers_subject import Built, Subject
from qat.evaluation.module_side import ModuleLogits
from qat.models.ctc import CTCModule
from qat.models.loading import load_module

GROUP = 16  # weights with a scale of their own, in 4 bits: must divide the widths of all layers, such as 144
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM)


def build(subject: Subject, options: dict[str, Any], folder: Path) -> Built:
    """Quantize the float module.

    Args:
        subject: the float model.
        options: `torchao`, `modelopt` or `brevitas`: what each is told.
        folder: for saved weights.
    """
    module = load_module(subject.checkpoint).eval()
    file = None
    if "torchao" in options:
        with_torchao_(module, options["torchao"])
        torch.save(module.state_dict(), file := folder / "torchao.pt")
    elif "modelopt" in options:
        with_modelopt_(module, options["modelopt"], subject)
    else:
        with_brevitas_(module, subject)
    return Built(ModuleLogits(module, subject.float_session), file)


def with_torchao_(module: CTCModule, how: str) -> None:
    """Linear layers alone: `w8a8` (activations take their ranges when they are computed) or `hqq` (4-bit weights)."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    if how == "w8a8":
        config: Any = Int8DynamicActivationInt8WeightConfig()
    else:
        field = "intx_choose_qparams_algorithm"
        hqq = type(getattr(IntxWeightOnlyConfig(), field))("hqq_scale_only")
        config = IntxWeightOnlyConfig(torch.int4, PerGroup(GROUP), **{field: hqq})
    quantize_(module, config, filter_fn=lambda layer, _: type(layer) is nn.Linear)


def with_modelopt_(module: CTCModule, how: str, subject: Subject) -> None:
    """Rounded in place (fake quantization), ranges from calibration: `max` or `smoothquant`."""
    import modelopt.torch.quantization as mtq

    config = {"max": mtq.INT8_DEFAULT_CFG, "smoothquant": mtq.INT8_SMOOTHQUANT_CFG}[how]
    mtq.quantize(module, copy.deepcopy(config), lambda model: run_all(model, subject))


def with_brevitas_(module: CTCModule, subject: Subject) -> None:
    """Rounded in place (fake quantization), layer by layer, with Brevitas's own 8-bit quantizers.

    LSTMs stay float: its own one cannot be called as PyTorch's.
    """
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import layerwise_quantize

    kept = {
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.LSTM) or (isinstance(layer, LAYERS) and name not in subject.layers)
    }
    layerwise_quantize(module, name_blacklist=sorted(kept))
    with calibration_mode(module):
        run_all(module, subject)


@torch.no_grad()
def run_all(module: Any, subject: Subject) -> None:
    """Run a module on the utterances that calibrate."""
    for signal in subject.calibrating:
        module(torch.from_numpy(signal)[None], torch.tensor([signal.size]))
