"""The attention model in a SpeechBrain folder (`EncoderDecoderASR` with a CRDNN): its sizes as options of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qat.decoding.options import SearchSettings
from qat.decoding.tokenizer import SentencePieceTokenizer
from qat.models.speechbrain_arguments import (
    Arguments,
    check_input,
    check_leaky_relu,
    encoder_layers,
    linear_sizes,
    shown,
)
from qat.models.speechbrain_parameters import ParameterFiles, SpeechBrainFolder, Weights, read_file
from qat.models.speechbrain_search import SearchReader
from qat.models.speechbrain_yaml import Node
from qat.system.errors import UserError

SMALLEST_DEVIATION = 1e-10  # SpeechBrain divides by nothing smaller
STATISTICS = ("count", "glob_mean", "glob_std")
BY_SPEAKER = (
    "spk_dict_mean",
    "spk_dict_std",
    "spk_dict_count",
)  # of SpeechBrain before 1.0; nothing reads them


def read_attention(folder: Path, file: Path, contents: dict[str, Any]) -> SpeechBrainFolder:
    """The attention model of a folder.

    Args:
        folder: with parameter files.
        file: of the hyper-parameters, for messages.
        contents: of it.

    Raises:
        UserError: naming file and key of what is missing, unknown, or does not fit the rest.
    """
    modules = contents["modules"]
    fbank, norm, crdnn = encoder_layers(
        file, modules["encoder"], ("Fbank",), ("InputNormalization",), ("CRDNN",)
    )
    search = SearchReader(file, modules["decoder"])
    files = ParameterFiles(folder, file, contents.get("pretrainer"))
    ctc_lin = ctc_of(file, contents, crdnn, search)
    options = {**features(file, fbank), **encoder(file, crdnn)}
    check_channels(file, crdnn, options["n_mels"])
    options.update(decoder(file, search.decoder, options["dnn_neurons"]))
    options["embedding_dim"], labels = embedding(file, search.embedding)
    sizes = {
        f"{search.embedding.key}.num_embeddings": labels,
        f"{ctc_lin.key}.n_neurons": linear_sizes(file, ctc_lin, options["dnn_neurons"]),
        f"{search.linear.key}.n_neurons": linear_sizes(file, search.linear, options["decoder_neurons"]),
        **search.vocabulary,
    }
    check_decoder_input(file, search.decoder, options["embedding_dim"])
    options["lm"] = "none"
    if search.language_model is not None:
        of_lm, sizes[f"{search.language_model.key}.output_neurons"] = language_model(
            file, search.language_model
        )
        options.pop("lm")
        options.update(of_lm)
    tokenizer, path = read_tokenizer(files, contents)
    sizes[f"pieces of {path.name}"] = len(SentencePieceTokenizer(tokenizer, str(path)))
    options["vocabulary_size"] = check_same(file, sizes)
    settings = SearchSettings.from_dict(search.settings).to_dict()
    options.update(normalize="global", search=settings)
    weights = read_weights(files, search, crdnn, ctc_lin)
    weights.state.update(statistics(files.path_of(norm), file, norm, options["n_mels"]))
    weights.state["tokenizer._extra_state"] = torch.frombuffer(
        bytearray(tokenizer), dtype=torch.uint8
    ).clone()
    return SpeechBrainFolder("attention", folder, options, settings, weights, tokenizer)


def ctc_of(file: Path, contents: dict[str, Any], crdnn: Node, search: SearchReader) -> Node:
    """The CTC head: what the list of the recogniser's modules holds beside encoder, decoder and its parts."""
    parts = [crdnn, search.embedding, search.decoder, search.linear]
    lists = [item for item in contents.values() if isinstance(item, Node) and item.name == "ModuleList"]
    for item in lists:
        others = [layer for layer in item.layers if not any(layer is part for part in parts)]
        if len(item.layers) - len(others) == len(parts):
            if len(others) == 1 and isinstance(others[0], Node) and others[0].name == "Linear":
                return others[0]
            names = ", ".join(shown(other) for other in others) or "nothing"
            raise UserError(
                f"{file}, line {item.line}: {item.key}: {names} beside the decoder, must be one CTC Linear"
            )
    raise UserError(
        f"{file}: must hold a torch.nn.ModuleList of encoder, embedding, decoder, CTC Linear and output Linear"
    )


def read_weights(files: ParameterFiles, search: SearchReader, crdnn: Node, ctc_lin: Node) -> Weights:
    """All parameters, under the names of our module."""
    weights = Weights()
    files.read(crdnn, "encoder.", weights)
    files.read(search.embedding, "embedding.", weights)
    files.read(search.decoder, "decoder.", weights)
    files.read(ctc_lin, "ctc_lin.", weights)
    files.read(search.linear, "seq_lin.", weights)
    if search.language_model is not None:
        files.read(search.language_model, "lm.", weights)
    files.check_all_taken(weights)
    return weights


def features(file: Path, node: Node) -> dict[str, Any]:
    """Options of log-mel filterbanks; ours are SpeechBrain's with all settings but one as they are by default."""
    arguments = Arguments(file, node)
    arguments.only(16_000, "sample_rate")
    arguments.only(400, "n_fft")
    arguments.only(0, "f_min")
    if arguments.take("f_max", None) not in (None, 8_000):
        arguments.refuse("f_max", "must be 8000, half the sample rate")
    arguments.only("triangular", "filter_shape")
    arguments.only(25, "win_length")
    arguments.only(10, "hop_length")
    arguments.only(False, "deltas", "context")
    arguments.ignore(
        "requires_grad", "param_change_factor", "param_rand_factor", "left_frames", "right_frames"
    )
    n_mels = arguments.integer("n_mels", 40, least=1)
    arguments.finish()
    return {"n_mels": n_mels}


def encoder(file: Path, node: Node) -> dict[str, Any]:
    """Options of the CRDNN."""
    arguments = Arguments(file, node)
    activation = arguments.node_of("activation", "LeakyReLU", default=None)
    if activation is not None:
        check_leaky_relu(file, activation)
    arguments.node_of("rnn_class", "LSTM")
    blocks = arguments.integer("cnn_blocks", 2, least=1)
    arguments.only((3, 3), "cnn_kernelsize")
    arguments.only(True, "time_pooling", default=False)
    arguments.only(False, "using_2d_pooling", "use_rnnp")
    arguments.only(-1, "projection_dim")
    arguments.ignore("rnn_re_init", "freq_pooling_size", "input_size", "input_shape")
    options = {
        "cnn_channels": arguments.integers("cnn_channels", blocks, [128, 256]),
        "cnn_pooling": arguments.integers("inter_layer_pooling_size", blocks, [2, 2]),
        "time_pooling_size": arguments.integer("time_pooling_size", 2, least=1),
        "rnn_layers": arguments.integer("rnn_layers", 4, least=1),
        "rnn_neurons": arguments.integer("rnn_neurons", 512, least=1),
        "rnn_bidirectional": arguments.truth("rnn_bidirectional", True),
        "dnn_blocks": arguments.integer("dnn_blocks", 2, least=1),
        "dnn_neurons": arguments.integer("dnn_neurons", 512, least=1),
        "dropout": arguments.number("dropout", 0.15),
    }
    arguments.finish()
    return options


def check_channels(file: Path, node: Node, n_mels: int) -> None:
    """Refuse an encoder that reads another number of channels than the features have."""
    arguments = Arguments(file, node)
    check_input(arguments, n_mels)


def decoder(file: Path, node: Node, states: int) -> dict[str, Any]:
    """Options of the attentional decoder, which reads encoder states of `states` values."""
    arguments = Arguments(file, node)
    for name, allowed in (("rnn_type", "gru"), ("attn_type", "location")):
        value = arguments.take(name)
        if str(value).lower() != allowed:
            arguments.refuse(name, f"{value!r}, must be {allowed}; our modules know no other")
    arguments.only(True, "bias")
    arguments.only(states, "enc_dim")
    arguments.ignore("nonlinearity", "re_init", "normalization", "dropout", "input_size")
    options = {
        "decoder_neurons": arguments.integer("hidden_size", least=1),
        "decoder_layers": arguments.integer("num_layers", least=1),
        "attention_dim": arguments.integer("attn_dim", least=1),
        "attention_channels": arguments.integer("channels", least=1),
        "attention_kernel": arguments.integer("kernel_size"),
        "attention_scaling": arguments.number("scaling", 1.0),
    }
    arguments.finish()
    return options


def check_decoder_input(file: Path, node: Node, embedding_dim: int) -> None:
    """Refuse a decoder that reads another width than the embedding gives."""
    Arguments(file, node).only(embedding_dim, "input_size")


def embedding(file: Path, node: Node) -> tuple[int, int]:
    """Width of the decoder's embedding, and the size of its vocabulary."""
    arguments = Arguments(file, node)
    arguments.only(False, "consider_as_one_hot")
    arguments.ignore("blank_id")
    found = arguments.integer("embedding_dim", 128, least=1), arguments.integer("num_embeddings", least=1)
    arguments.finish()
    return found


def language_model(file: Path, node: Node) -> tuple[dict[str, Any], int]:
    """Options of the language model, and the size of its vocabulary."""
    arguments = Arguments(file, node)
    activation = arguments.node_of("activation", "LeakyReLU", default=None)
    if activation is not None:
        check_leaky_relu(file, activation)
    arguments.node_of("rnn_class", "LSTM", default=None)
    arguments.ignore("rnn_re_init", "return_hidden")
    options = {
        "lm_embedding_dim": arguments.integer("embedding_dim", 128, least=1),
        "lm_layers": arguments.integer("rnn_layers", 2, least=1),
        "lm_neurons": arguments.integer("rnn_neurons", 1024, least=1),
        "lm_dnn_blocks": arguments.integer("dnn_blocks", 1, least=1),
        "lm_dnn_neurons": arguments.integer("dnn_neurons", 512, least=1),
        "lm_dropout": arguments.number("dropout", 0.15),
    }
    size = arguments.integer("output_neurons", least=1)
    arguments.finish()
    return options, size


def check_same(file: Path, sizes: dict[str, int]) -> int:
    """The one size of the vocabulary.

    Raises:
        UserError: two parts have different ones.
    """
    first = next(iter(sizes))
    for name, size in sizes.items():
        if size != sizes[first]:
            raise UserError(
                f"{file}: {name} is {size}, must be {sizes[first]}, which is {first}; the parts must fit"
            )
    return sizes[first]


def read_tokenizer(files: ParameterFiles, contents: dict[str, Any]) -> tuple[bytes, Path]:
    """Contents and path of the SentencePiece model."""
    node = contents.get("tokenizer")
    if not isinstance(node, Node) or node.name != "SentencePieceProcessor":
        raise UserError(
            f"{files.file}: tokenizer: {shown(node)}, must be !new:sentencepiece.SentencePieceProcessor"
        )
    path = files.path_of(node)
    return path.read_bytes(), path


def statistics(path: Path, file: Path, node: Node, n_mels: int) -> dict[str, Tensor]:
    """Mean and deviation of each channel, under the names of our module."""
    arguments = Arguments(file, node)
    arguments.only("global", "norm_type")
    arguments.only(True, "mean_norm")
    scaled = arguments.truth("std_norm", True)
    if arguments.take("avg_factor", None) is not None:
        arguments.refuse("avg_factor", "must be left out")
    arguments.ignore(
        "length_dim", "update_until_epoch", "avoid_padding_norm", "epsilon", "requires_grad", "device"
    )
    arguments.finish()
    contents = read_file(path)
    if not isinstance(contents, dict):
        raise UserError(f"{path}: holds a {type(contents).__name__}, must hold statistics by name")
    for name in contents:
        if name not in (*STATISTICS, *BY_SPEAKER):
            raise UserError(
                f"{path}: {name}: must not be there; SpeechBrain's statistics are {', '.join(STATISTICS)}"
            )
    found = []
    for name in STATISTICS[1:]:
        value = contents.get(name)
        if not isinstance(value, Tensor) or value.shape != (n_mels,) or not bool(value.isfinite().all()):
            raise UserError(
                f"{path}: {name}: must be {n_mels} finite numbers, one for each filterbank channel"
            )
        found.append(value.float())
    mean, deviation = found
    return {
        "mean": mean,
        "deviation": deviation.clamp(min=SMALLEST_DEVIATION) if scaled else torch.ones(n_mels, device="cpu"),
    }
