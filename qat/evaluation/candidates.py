"""The models that a report compares: the float start, its post-training twin, and the checkpoint itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.models.ctc import CTCModule
from qat.models.loading import find_float, load_float, load_module
from qat.runs import MODEL_FILE, PTQ_FILE, start_of


@dataclass(frozen=True)
class Candidate:
    """One model that a report measures.

    Args:
        name: stem of its files in the report folder: `float`, `ptq`, `model`.
        method: what was done to it: `float`, `float control`, `ptq`, or the preset of the run.
        module: the model, in eval mode.
        checkpoint: the file it came from, or a Hugging Face model's folder.
    """

    name: str
    method: str
    module: CTCModule
    checkpoint: Path


def candidates_of(checkpoint: Path, config: dict[str, Any], with_twin: bool = True) -> list[Candidate]:
    """The models to compare: the float start, its post-training-quantized twin, and the checkpoint itself."""
    module = load_module(checkpoint)
    start = find_float(start_of(config))
    candidates = []
    if start and start.resolve() != checkpoint.resolve():
        candidates.append(Candidate("float", "float", load_float(start), start))
    if not module.recipe.active:
        method = "float control" if candidates else "float"
        return [*candidates, Candidate("control" if candidates else "float", method, module, checkpoint)]
    if not candidates:
        candidates.append(Candidate("float", "float", float_twin(module), checkpoint))
    twin = checkpoint.parent / PTQ_FILE
    further = module.recipe.fine_tune or module.reconstruction
    if with_twin and further and twin.is_file() and checkpoint.name == MODEL_FILE:
        candidates.append(Candidate("ptq", "ptq", load_module(twin), twin))
    return [*candidates, Candidate("model", module.recipe.preset, module, checkpoint)]


def float_twin(module: CTCModule) -> CTCModule:
    """The same weights with every quantizer off: the reference where the float start is gone."""
    twin = type(module)(**{**dict(module.hparams), "recipe": None})
    if module.folded:
        twin.fold_batch_norm()
    state = {key: value for key, value in module.state_dict().items() if key in twin.state_dict()}
    twin.load_state_dict(state)
    return twin.eval()
