"""The Wav2Vec2 in a SpeechBrain folder (`EncoderASR`): its sizes, head and labels as options of ours."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.layers.weight_norm import strip_weight_norm
from qat.models.speechbrain_arguments import (
    Arguments,
    check_input,
    check_leaky_relu,
    encoder_layers,
    layer_names,
    layers_of,
    linear_sizes,
    shown,
)
from qat.models.speechbrain_config import config_of, normalizes
from qat.models.speechbrain_parameters import ParameterFiles, SpeechBrainFolder, Weights
from qat.models.speechbrain_yaml import Node
from qat.system.errors import UserError

ARROW, END = " => ", "================"  # of the file of a CTCTextEncoder
BLANK = "<blank>"


@dataclass(frozen=True)
class Block:
    """One block of the head: Linear, BatchNorm where there is one, LeakyReLU, Dropout where there is one.

    Attributes:
        linear: its name in the head.
        neurons: of the linear layer.
        norm: name of the BatchNorm; None without.
        dropout: share.
    """

    linear: str
    neurons: int
    norm: str | None = None
    dropout: float = 0.0


def read_wav2vec2(folder: Path, file: Path, contents: dict[str, Any]) -> SpeechBrainFolder:
    """The Wav2Vec2 of a folder; `wav2vec2_hub` in the file is not looked at.

    Args:
        folder: with parameter files.
        file: of the hyper-parameters, for messages.
        contents: of it.

    Raises:
        UserError: naming file and key of what is missing, unknown, or does not fit the rest.
    """
    lobe, enc, ctc_lin = encoder_layers(
        file, contents["modules"]["encoder"], ("Wav2Vec2",), ("VanillaNN", "Sequential"), ("Linear",)
    )
    files = ParameterFiles(folder, file, contents.get("pretrainer"))
    weights, output_norm, masks = Weights(), *lobe_options(file, lobe)
    files.read(lobe, "wav2vec2.", weights, "model.")
    weights.state = strip_weight_norm(weights.state)
    config = config_of(folder, {key.removeprefix("wav2vec2."): value for key, value in weights.state.items()})
    config["apply_spec_augment"] = masks
    blocks = head_blocks(file, enc, config["hidden_size"])
    for index, block in enumerate(blocks):
        files.read(enc, f"head.{index}.linear.", weights, f"{block.linear}.w.")
        if block.norm is not None:
            files.read(enc, f"head.{index}.norm.", weights, f"{block.norm}.norm.")
    files.read(ctc_lin, "ctc_lin.", weights, "w.")
    files.check_all_taken(weights)
    labels, blank, path = read_labels(files, contents)
    size = linear_sizes(file, ctc_lin, blocks[-1].neurons)
    if size != len(labels):
        raise UserError(
            f"{file}: {ctc_lin.key}.n_neurons is {size}, must be {len(labels)}, the labels in {path.name}"
        )
    check_decoding(file, contents["decoding_function"], labels, blank)
    options = {
        "config": config,
        "vocabulary": labels,
        "blank_token": blank,
        "do_normalize": normalizes(folder),
        "output_norm": output_norm,
        "head_neurons": [block.neurons for block in blocks],
        "head_batch_norm": blocks[0].norm is not None,
        "head_dropout": blocks[0].dropout,
    }
    return SpeechBrainFolder("wav2vec2", folder, options, {}, weights, labels=labels)


def lobe_options(file: Path, node: Node) -> tuple[bool, bool]:
    """Whether the lobe normalises its output, and whether it masks spans of frames in training."""
    arguments = Arguments(file, node)
    arguments.only(False, "output_all_hiddens")
    arguments.ignore("source", "save_path", "freeze", "freeze_feature_extractor")
    found = arguments.truth("output_norm", False), arguments.truth("apply_spec_augment", False)
    arguments.finish()
    return found


def head_blocks(file: Path, node: Node, width: int) -> list[Block]:
    """Blocks of the head, which reads `width` values; all of the same kind."""
    blocks = (
        vanilla_blocks(file, node, width) if node.name == "VanillaNN" else listed_blocks(file, node, width)
    )
    kinds = {(block.norm is None, block.dropout) for block in blocks}
    if len(kinds) != 1:
        raise UserError(
            f"{file}, line {node.line}: {node.key}: must be blocks of Linear, LeakyReLU, and BatchNorm1d and Dropout "
            "in all of them or none"
        )
    return blocks


def vanilla_blocks(file: Path, node: Node, width: int) -> list[Block]:
    """Blocks of a `VanillaNN`."""
    arguments = Arguments(file, node)
    activation = arguments.node_of("activation", "LeakyReLU", default=None)
    if activation is not None:
        check_leaky_relu(file, activation)
    check_input(arguments, width)
    count = arguments.integer("dnn_blocks", 2, least=1)
    neurons = arguments.integer("dnn_neurons", 512, least=1)
    arguments.finish()
    return [Block(f"linear_{index - 1}" if index else "linear", neurons) for index in range(count)]


def listed_blocks(file: Path, node: Node, width: int) -> list[Block]:
    """Blocks of a `Sequential` that lists its layers."""
    found: list[list[tuple[str, Node]]] = []
    for name, layer in zip(layer_names(node), layers_of(node), strict=True):
        if not isinstance(layer, Node):
            raise UserError(f"{file}, line {node.line}: {node.key}.{name}: {layer!r}, must be a layer")
        if layer.name == "Linear":
            found.append([])
        if not found:
            raise UserError(
                f"{file}, line {layer.line}: {node.key}.{name}: {layer.name}, must come after a Linear"
            )
        found[-1].append((name, layer))
    blocks = []
    for layers in found:
        kinds = [layer.name for _, layer in layers]
        if kinds not in (
            ["Linear", *norm, "LeakyReLU", *drop]
            for norm in ([], ["BatchNorm1d"])
            for drop in ([], ["Dropout"])
        ):
            raise UserError(
                f"{file}, line {layers[0][1].line}: {node.key}: {', '.join(kinds)}, must be Linear, BatchNorm1d (or "
                "none), LeakyReLU and Dropout (or none)"
            )
        blocks.append(block_of(file, layers, width))
        width = blocks[-1].neurons
    if not blocks:
        raise UserError(f"{file}, line {node.line}: {node.key}: must have a Linear")
    return blocks


def block_of(file: Path, layers: list[tuple[str, Node]], width: int) -> Block:
    """One block, which reads `width` values."""
    norm, dropout = None, 0.0
    neurons = linear_sizes(file, layers[0][1], width)
    for name, layer in layers[1:]:
        arguments = Arguments(file, layer)
        if layer.name == "LeakyReLU":
            check_leaky_relu(file, layer)
        elif layer.name == "Dropout":
            dropout = arguments.number("p", 0.5)
        else:
            norm = name
            arguments.only(1e-5, "eps")
            arguments.only(0.1, "momentum")
            arguments.only(True, "affine")
            check_input(arguments, neurons)
            arguments.finish()
    return Block(layers[0][0], neurons, norm, dropout)


def read_labels(files: ParameterFiles, contents: dict[str, Any]) -> tuple[list[str], str, Path]:
    """Labels in order, the blank among them, and the path of their file."""
    node = contents.get("tokenizer")
    if not isinstance(node, Node) or node.name != "CTCTextEncoder":
        raise UserError(
            f"{files.file}: tokenizer: {shown(node)}, must be !new:speechbrain.dataio.encoder.CTCTextEncoder"
        )
    path = files.path_of(node)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: must be text, a label and its number on each line") from None
    end = lines.index(END) if END in lines else len(lines)
    pairs = [literals(path, number, line) for number, line in enumerate(lines[:end], 1)]
    extras = dict(
        literals(path, end + 2 + number, line) for number, line in enumerate(lines[end + 1 :]) if line
    )
    by_index = {index: label for label, index in pairs}
    if not pairs or sorted(by_index) != list(range(len(pairs))):
        raise UserError(f"{path}: must number its labels 0 to {len(pairs) - 1}, each once")
    labels = [by_index[index] for index in range(len(pairs))]
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
        raise UserError(f"{path}: labels must be texts, each once")
    blank = extras.get("blank_label", BLANK)
    if blank not in labels:
        raise UserError(f"{path}: {blank!r}, the blank, must be a label")
    return labels, str(blank), path


def literals(path: Path, number: int, line: str) -> tuple[Any, Any]:
    """Both sides of `'A' => 5`: Python literals, nothing that runs."""
    try:
        left, right = line.strip().split(ARROW, maxsplit=1)
        return ast.literal_eval(left), ast.literal_eval(right)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UserError(
            f"{path}, line {number}: {line[:60]!r}, must be a label, {ARROW.strip()} and a number"
        ) from None


def check_decoding(file: Path, node: Any, labels: list[str], blank: str) -> None:
    """Refuse any decoding but greedy CTC, and a blank that is not the labels'."""
    if not isinstance(node, Node) or node.name != "ctc_greedy_decode":
        raise UserError(
            f"{file}: decoding_function: {shown(node)}, must be !name:speechbrain.decoders.ctc_greedy_decode"
        )
    arguments = Arguments(file, node)
    index = arguments.take("blank_id", -1)
    if type(index) is not int or not -len(labels) <= index < len(labels) or labels[index] != blank:
        arguments.refuse("blank_id", f"{index!r}, must be {labels.index(blank)}, the number of {blank!r}")
    arguments.finish()
