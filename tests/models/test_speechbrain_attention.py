"""The attention model of a folder: sizes as options, weights under our names, one line for what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from qat.models.attention import AttentionModule
from qat.models.attention_options import AttentionOptions
from qat.models.speechbrain_folder import read_folder
from qat.system.errors import UserError
from tests.models.conftest import edited
from tests.models.speechbrain_folders import ATTENTION_SIZES, write_attention_folder


def test_sizes_become_options_and_the_search_goes_with_them(attention_folder: Path) -> None:
    folder = read_folder(attention_folder)
    options = AttentionOptions(**folder.options)
    assert folder.layout == "attention" and folder.labels is None
    assert folder.tokenizer == (attention_folder / "tokenizer.ckpt").read_bytes()
    assert (options.cnn_channels, options.rnn_neurons, options.dnn_neurons) == ([4, 6], 12, 10)
    assert (options.embedding_dim, options.decoder_neurons, options.attention_dim) == (7, 9, 11)
    assert (options.attention_channels, options.attention_kernel, options.vocabulary_size) == (3, 5, 40)
    assert (options.lm, options.lm_layers, options.lm_neurons, options.lm_dropout) == ("quantize", 2, 13, 0.0)
    assert options.normalize == "global" and options.search == folder.search
    assert folder.search["coverage_weight"] == 1.5 and folder.search["max_attention_shift"] == 240


def test_both_styles_of_search_read_the_same(attention_folder: Path, tmp_path: Path) -> None:
    write_attention_folder(tmp_path, style="searcher")
    assert read_folder(tmp_path).options == read_folder(attention_folder).options


@pytest.mark.parametrize("with_lm", [True, False])
def test_all_parameters_have_their_place_in_our_module(tmp_path: Path, with_lm: bool) -> None:
    objects = write_attention_folder(tmp_path, language_model=with_lm)
    folder = read_folder(tmp_path)
    module = AttentionModule(**folder.options)
    folder.fill_(module)
    state = module.state_dict()
    names = ("encoder", "embedding", "decoder", "ctc_lin", "seq_lin")
    theirs = {
        f"{name}.{key}": value
        for name, part in zip(names, objects["asr_model"], strict=True)
        for key, value in part.state_dict().items()
    }
    if with_lm:
        theirs.update({f"lm.{key}": value for key, value in objects["lm_model"].state_dict().items()})
    assert all(torch.equal(state[key], value) for key, value in theirs.items())
    left = {key for key in state if key not in theirs}
    assert left == {"mean", "deviation", "tokenizer._extra_state", "fbank.compute_deltas.kernel"}
    assert torch.equal(module.mean, objects["normalizer"].glob_mean)
    assert module.tokenizer.model == folder.tokenizer
    assert (module.lm is None) != with_lm


def test_the_language_model_may_be_left_out(attention_folder: Path) -> None:
    folder = read_folder(attention_folder)
    module = AttentionModule(**{**folder.options, "lm": "none"})
    with pytest.raises(UserError, match="lm.ckpt: embedding.Embedding.weight: must not be there"):
        folder.fill_(module)
    folder.fill_(module, without=("lm.",))


EDITS = {
    "enc.rnn_class: must be given": ("    rnn_class: !ref <rnn_class>\n", ""),
    "enc.time_pooling: False, must be True": ("time_pooling: True", "time_pooling: False"),
    "enc.cnn_channels: .*must be a list of 3": ("cnn_blocks: 2", "cnn_blocks: 3"),
    "enc.cnn_kernelsize: .*must be": ("cnn_kernelsize: (3, 3)", "cnn_kernelsize: (5, 3)"),
    "enc.projection_dim: 5, must be -1": ("rnn_re_init: True", "projection_dim: 5"),
    "compute_features.sample_rate: 8000, must be 16000": ("sample_rate: 16000", "sample_rate: 8000"),
    "normalizer.norm_type: 'sentence', must be 'global'": ("norm_type: global", "norm_type: sentence"),
    "dec.attn_type: 'content', must be location": ("attn_type: location", "attn_type: content"),
    "dec.rnn_type: 'lstm', must be gru": ("rnn_type: gru", "rnn_type: lstm"),
    "dec.enc_dim: 9, must be 10": ("enc_dim: !ref <dnn_neurons>", "enc_dim: 9"),
    "dec.input_size: 8, must be 7": ("input_size: !ref <emb_size>", "input_size: 8"),
    "seq_lin.input_size: 10, must be 9": ("input_size: !ref <dec_neurons>", "input_size: 10"),
    "enc.input_size: 9, must be 8": (
        "enc: !new:speechbrain.lobes.models.CRDNN.CRDNN\n    input_shape: [null, null, !ref <n_mels>]",
        "enc: !new:speechbrain.lobes.models.CRDNN.CRDNN\n    input_shape: [null, null, 9]",
    ),
    "lm_model.output_neurons is 41, must be 40, which is emb.num_embeddings": (
        "output_neurons: !ref <output_neurons>",
        "output_neurons: 41",
    ),
    "pieces of tokenizer.ckpt is 40, must be 41": ("output_neurons: 40", "output_neurons: 41"),
    "coverage_scorer.vocab_size is 39, must be 40": ("vocab_size: !ref <output_neurons>", "vocab_size: 39"),
    "tokenizer: CTCTextEncoder, must be !new:sentencepiece": (
        "!new:sentencepiece.SentencePieceProcessor",
        "!new:speechbrain.dataio.encoder.CTCTextEncoder",
    ),
    "must hold a torch.nn.ModuleList of encoder": (
        "- [!ref <enc>, !ref <emb>, !ref <dec>, !ref <ctc_lin>, !ref <seq_lin>]",
        "- [!ref <enc>, !ref <emb>]",
    ),
    "asr_model: nothing beside the decoder, must be one CTC Linear": (
        "!ref <dec>, !ref <ctc_lin>, ",
        "!ref <dec>, ",
    ),
    "pretrainer.loadables: must list lm_model": ("        lm: !ref <lm_model>\n", ""),
}


@pytest.mark.parametrize("problem", EDITS)
def test_what_does_not_fit_is_one_line(attention_folder: Path, tmp_path: Path, problem: str) -> None:
    folder = edited(attention_folder, tmp_path / "f", *EDITS[problem])
    with pytest.raises(UserError, match=problem) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value) and "hyperparams.yaml" in str(caught.value)


def changed(folder: Path, to: Path, name: str, change: Any) -> Path:
    """A copy of a folder with another parameter file."""
    shutil.copytree(folder, to)
    state = torch.load(to / name, weights_only=True)
    change(state)
    torch.save(state, to / name)
    return to


STATISTICS = {
    "glob_mean: must be 8 finite numbers": lambda state: state.update(glob_mean=torch.ones(7)),
    "glob_std: must be 8 finite numbers": lambda state: state.pop("glob_std"),
    "more: must not be there": lambda state: state.update(more=1),
}


@pytest.mark.parametrize("problem", STATISTICS)
def test_statistics_that_do_not_fit_are_one_line(
    attention_folder: Path, tmp_path: Path, problem: str
) -> None:
    folder = changed(attention_folder, tmp_path / "f", "normalizer.ckpt", STATISTICS[problem])
    with pytest.raises(UserError, match=f"normalizer.ckpt: {problem}"):
        read_folder(folder)


def test_statistics_of_a_newer_speechbrain_have_no_speakers(attention_folder: Path, tmp_path: Path) -> None:
    def newer(state: dict[str, Any]) -> None:
        for name in ("spk_dict_mean", "spk_dict_std", "spk_dict_count"):
            state.pop(name)

    folder = read_folder(changed(attention_folder, tmp_path / "f", "normalizer.ckpt", newer))
    assert torch.equal(folder.weights.state["mean"], read_folder(attention_folder).weights.state["mean"])


WEIGHTS = {
    "asr.ckpt: 2.proj.bias: must be there": lambda state: state.pop("2.proj.bias"),
    "asr.ckpt: 1.more: must not be there": lambda state: state.update({"1.more": torch.ones(1)}),
    r"asr.ckpt: 1.Embedding.weight: \(41, 7\), must be \(40, 7\)": lambda state: state.update(
        {"1.Embedding.weight": torch.ones(41, 7)}
    ),
}


@pytest.mark.parametrize("problem", WEIGHTS)
def test_weights_that_do_not_fit_are_named_as_in_the_folder(
    attention_folder: Path, tmp_path: Path, problem: str
) -> None:
    folder = read_folder(changed(attention_folder, tmp_path / "f", "asr.ckpt", WEIGHTS[problem]))
    with pytest.raises(UserError, match=problem):
        folder.fill_(AttentionModule(**folder.options))


def test_sizes_of_the_fixture_are_all_different() -> None:
    """Else two of them could be mixed up."""
    names = ("n_mels", "rnn_neurons", "dnn_neurons", "emb_size", "dec_neurons", "attn_dim", "lm_rnn_neurons")
    assert len({ATTENTION_SIZES[name] for name in names}) == len(names)
