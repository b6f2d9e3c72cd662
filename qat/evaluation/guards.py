"""Checks that fail a run: each guards against a way in which published tables went wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from datamodules.utterance import Utterance
from qat.evaluation.measurement import Measurement
from qat.runtime.graph import all_nodes, constants, count_nodes, name_of

UNTOUCHED = ("preset", "seed")  # fields of a recipe that need not change a weight


class GuardError(RuntimeError):
    """A result that cannot be right; one clear line. The run fails and no row is written."""


@dataclass(frozen=True)
class IntegerFile:
    """One integer file, for comparison with the others.

    Attributes:
        name: of the file, for the message.
        model: name of the model; files of different models are not compared.
        digest: of its constants (`initializers_sha256`), or of the checkpoint that it comes from.
        recipe: the resolved recipe as builtins.
    """

    name: str
    model: str
    digest: str
    recipe: Mapping[str, Any] = field(default_factory=dict)


def check_logits_differ(
    float_logits: Sequence[NDArray[Any]], quantized_logits: Sequence[NDArray[Any]], name: str = "model"
) -> None:
    """A quantized model must not compute exactly what the float model computes.

    Args:
        float_logits: `(T, V)` or `(B, T, V)` per utterance.
        quantized_logits: the same, of the quantized model.
        name: of the model, for the message.

    Raises:
        GuardError: nothing was compared, or every logit of every utterance is equal bit for bit.
    """
    pairs = list(zip(float_logits, quantized_logits, strict=True))
    if not pairs:
        raise GuardError(f"{name}: no logits to compare, so nothing shows that it is quantized")
    if all(np.array_equal(one, two) for one, two in pairs):
        raise GuardError(
            f"{name}: quantized logits equal the float ones bit for bit on all {len(pairs)} utterances"
        )


def check_recipes_take_effect(files: Sequence[IntegerFile], ignore: Iterable[str] = UNTOUCHED) -> None:
    """Different recipes for one model must give different numbers.

    Raises:
        GuardError: two files of one model have different recipes and the same digest.
    """
    skipped = set(ignore)
    for one, two in combinations(files, 2):
        if one.model != two.model or one.digest != two.digest:
            continue
        keys = sorted(one.recipe.keys() | two.recipe.keys())
        differing = [key for key in keys if key not in skipped and one.recipe.get(key) != two.recipe.get(key)]
        if differing:
            key = differing[0]
            raise GuardError(
                f"{one.name} and {two.name} hold the same weights although `{key}` is "
                f"{one.recipe.get(key)!r} in one and {two.recipe.get(key)!r} in the other"
            )


def check_bits_differ(measurements: Sequence[Measurement]) -> None:
    """Integer models with different bits must come from different checkpoints.

    Raises:
        GuardError: two measurements with different bits name one checkpoint.
    """
    check_recipes_take_effect(
        [
            IntegerFile(
                name=f"{item.name} ({item.method})",
                model=item.model,
                digest=item.checkpoint_sha256,
                recipe={"weight_bits": item.weight_bits, "activation_bits": item.activation_bits},
            )
            for item in measurements
            if item.is_integer
        ]
    )


def initializers_sha256(path: Path) -> str:
    """Hash of all constants of an ONNX file (weights, scales, zero points) by name, type, shape and bytes."""
    digest = hashlib.sha256()
    for tensor in sorted(onnx.load(str(path)).graph.initializer, key=lambda item: item.name):
        array = onnx.numpy_helper.to_array(tensor)
        digest.update(f"{tensor.name}|{tensor.data_type}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_integer_nodes(measurement: Measurement) -> None:
    """An integer model must have integer nodes in the graph that ran, but on a runner that is said to have none.

    Raises:
        GuardError: the measurement says `integer` and its optimised graph has none.
    """
    if measurement.is_integer and not measurement.nodes.integer and not measurement.without_integers:
        raise GuardError(
            f"{measurement.name} ({measurement.method}): precision is 'integer' but the optimised graph holds "
            "0 integer nodes: it computes in float"
        )


def float_compute_weights(graph: onnx.ModelProto) -> dict[str, str]:
    """Nodes of an (optimised) graph that compute in float with a constant weight: node name -> weight name.

    Constant scalars and vectors (scales, biases) are no weights; matrices and kernels are.
    """
    weights, in_float = constants(graph.graph), count_nodes(graph).float_compute
    nodes = {name_of(node, index): node for index, node in enumerate(all_nodes(graph.graph))}
    return {name: next(item for item in nodes[name].input if item in weights) for name in in_float}


def check_float_compute(
    float_nodes: Mapping[str, str], excluded: Iterable[str], name: str = "integer graph"
) -> None:
    """Weight-bearing float nodes may only be those that the recipe left in float.

    Args:
        float_nodes: node name -> weight name, as `float_compute_weights` gives.
        excluded: layer names or globs that stay float; a layer name covers the weights below it.
        name: of the file, for the message.

    Raises:
        GuardError: a node computes in float with a weight that nothing excludes.
    """
    globs = list(excluded)
    for node, weight in float_nodes.items():
        if not any(_covers(glob, item) for glob in globs for item in (node, weight)):
            raise GuardError(
                f"{name}: node {node!r} computes in float with weight {weight!r}, "
                "which the recipe does not exclude"
            )


def _covers(glob: str, name: str) -> bool:
    return fnmatchcase(name, glob) or name.startswith((f"{glob}.", f"{glob}/"))


def check_no_leak(
    calibration: Sequence[Utterance],
    evaluation: Sequence[Utterance],
    split: str = "evaluation split",
    by_file: bool = False,
) -> None:
    """Calibration and AdaRound may not see what is evaluated; see `shared_audio`, as ids say nothing.

    Raises:
        GuardError: a recording is in both.
    """
    from datamodules.leaks import shared_audio  # PyTorch, which stored tables do not need

    shared = [two.id for _, two in shared_audio(calibration, evaluation, by_file)]
    if shared:
        raise GuardError(
            f"{split}: calibration saw {len(shared)} of its utterances, among them {min(shared)!r}"
        )
