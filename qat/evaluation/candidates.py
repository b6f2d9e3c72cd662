"""The models that a report compares: the float start, its post-training twin, and the checkpoint itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qat.decoding.options import DecodingOptions
from qat.evaluation.variants import variants_of
from qat.models.ctc import CTCModule
from qat.models.float_start import find_start, kept_start
from qat.models.loading import load_float, load_module
from qat.runs import MODEL_FILE, PTQ_FILE, SPEECHBRAIN_FILE, sha256_of_checkpoint
from qat.system.errors import UserError

SAME_WEIGHTS = "same weights in float"  # the method of a reference that is not the float start


@dataclass(frozen=True)
class Candidate:
    """One model that a report measures.

    Args:
        name: stem of its files in the report folder: `float`, `ptq`, `model`.
        method: what was done to it: `float`, `same weights in float`, `float control`, `ptq`, or the run's preset.
        module: the model, in eval mode.
        checkpoint: the file it came from, or a Hugging Face model's folder.
        is_variant: whether it is another candidate's with a part left out or in float.
    """

    name: str
    method: str
    module: CTCModule
    checkpoint: Path
    is_variant: bool = False

    @cached_property
    def sha256(self) -> str:
        """Digest of what the model is made of; see `sha256_of_checkpoint`."""
        return sha256_of_checkpoint(self.checkpoint)


def candidates_of(
    checkpoint: Path, config: dict[str, Any], with_twin: bool = True, with_variants: bool = False
) -> list[Candidate]:
    """The models to compare: the float start, its post-training-quantized twin, and the checkpoint itself.

    Args:
        checkpoint: of the model.
        config: of the run; names the float start.
        with_twin: the twin as well.
        with_variants: the checkpoint without its language model, and with it in float, as well (`variants_of`): before
            the checkpoint itself, or after it where the checkpoint is the float model that all are compared with.
    """
    found = main_candidates(checkpoint, config, with_twin)
    own = found[-1]
    if not with_variants or not uses_language_model(config):
        return found
    variants = [
        Candidate(f"{own.name}_{stem}", f"{own.method}, {words}", module, own.checkpoint, is_variant=True)
        for (stem, words), module in variants_of(own.module).items()
    ]
    return [*found[:1], *variants] if len(found) == 1 else [*found[:-1], *variants, own]


def uses_language_model(config: dict[str, Any]) -> bool:
    """Whether the search of a configuration weighs a language model, if the model has one."""
    options = DecodingOptions.from_dict(config.get("decoding") or {})
    return options.method != "ctc_greedy" and options.lm_weight != 0


def main_candidates(checkpoint: Path, config: dict[str, Any], with_twin: bool) -> list[Candidate]:
    """Float start, twin and checkpoint."""
    module = load_module(checkpoint)
    is_start = checkpoint.name == SPEECHBRAIN_FILE  # a pretrained folder comes from nothing that we know
    start = None if is_start else find_start(checkpoint, config)
    candidates = []
    if start and start.resolve() != checkpoint.resolve():
        candidates.append(Candidate("float", "float", load_start(start, module, checkpoint), start))
    if not module.recipe.active:
        began = candidates or (start is None and not is_start and kept_start(checkpoint.parent) is not None)
        name, method = ("control", "float control") if began else ("float", "float")
        return [*candidates, Candidate(name, method, module, checkpoint)]
    if not candidates:
        candidates.append(Candidate("float", SAME_WEIGHTS, float_twin(module), checkpoint))
    twin = checkpoint.parent / PTQ_FILE
    further = module.recipe.fine_tune or module.reconstruction
    if with_twin and further and twin.is_file() and checkpoint.name == MODEL_FILE:
        candidates.append(Candidate("ptq", "ptq", load_module(twin), twin))
    return [*candidates, Candidate("model", module.recipe.preset, module, checkpoint)]


def load_start(start: Path, module: CTCModule, checkpoint: Path) -> CTCModule:
    """The float start of a model.

    Raises:
        UserError: it cannot be read, or is another kind of model.
    """
    found = load_float(start)
    if type(found) is not type(module):
        raise UserError(
            f"{start}: must be the float start of {checkpoint}, a {type(module).__name__}, and is a "
            f"{type(found).__name__}; give the run's own configuration with --config"
        )
    return found


def float_twin(module: CTCModule) -> CTCModule:
    """The same weights with every quantizer off: the reference where the float start is gone."""
    twin = type(module)(**{**dict(module.hparams), "recipe": None})
    if module.folded:
        twin.fold_batch_norm()
    state = {key: value for key, value in module.state_dict().items() if key in twin.state_dict()}
    twin.load_state_dict(state)
    return twin.eval()
