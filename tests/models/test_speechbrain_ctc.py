"""The Wav2Vec2 of a folder: head, labels and lobe as options, one line for what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from speechbrain.dataio.encoder import CTCTextEncoder

from qat.models.speechbrain_folder import read_folder
from qat.system.errors import UserError
from tests.models.conftest import edited
from tests.models.speechbrain_folders import LABELS, write_wav2vec2_folder


def test_a_published_folder_says_head_labels_and_lobe(wav2vec2_folder: Path) -> None:
    folder = read_folder(wav2vec2_folder)
    assert folder.layout == "wav2vec2" and folder.labels == list(LABELS) and folder.search == {}
    options = folder.options
    assert options["head_neurons"] == [12, 12] and not options["head_batch_norm"] and options["output_norm"]
    assert options["vocabulary"] == list(LABELS) and options["blank_token"] == "<blank>"
    assert options["config"]["hidden_size"] == 16 and not options["config"]["apply_spec_augment"]
    assert options["config"]["layerdrop"] == 0.0 and options["do_normalize"]


def test_old_and_new_weight_norm_are_the_same_weights(wav2vec2_folder: Path, tmp_path: Path) -> None:
    write_wav2vec2_folder(tmp_path, old_weight_norm=False)
    old, new = read_folder(wav2vec2_folder).weights.state, read_folder(tmp_path).weights.state
    assert all(torch.equal(old[key], new[key]) for key in old) and old.keys() == new.keys()
    assert "wav2vec2.encoder.pos_conv_embed.conv.weight" in old


def test_the_hub_model_is_never_looked_at(wav2vec2_folder: Path, tmp_path: Path) -> None:
    folder = edited(wav2vec2_folder, tmp_path / "f", f"{wav2vec2_folder}/hub", "facebook/wav2vec2-large")
    shutil.rmtree(folder / "hub")
    assert read_folder(folder).options == read_folder(wav2vec2_folder).options


def test_a_head_with_batch_norm_and_dropout_is_read_by_its_layers(tmp_path: Path) -> None:
    write_wav2vec2_folder(tmp_path, batch_norm=True, output_norm=False)
    folder = read_folder(tmp_path)
    assert folder.options["head_batch_norm"] and folder.options["head_dropout"] == 0.15
    assert not folder.options["output_norm"]
    assert "head.1.norm.running_mean" in folder.weights.state
    assert folder.weights.origin("head.1.norm.running_mean") == "asr.ckpt: 0.bn2.norm.running_mean"


EDITS = {
    "n_neurons is 30, must be 31, the labels in tokenizer.ckpt": ("output_neurons: 31", "output_neurons: 30"),
    "blank_id: 1, must be 0, the number of '<blank>'": ("blank_id: !ref <blank_index>", "blank_id: 1"),
    "decoding_function: LeakyReLU, must be !name": (
        "!name:speechbrain.decoders.ctc_greedy_decode\n    blank_id: !ref <blank_index>",
        "!name:torch.nn.LeakyReLU",
    ),
    "wav2vec2.output_all_hiddens: True, must be False": ("output_norm: True", "output_all_hiddens: True"),
    "enc.input_size: 15, must be 16": ("[null, null, 16]", "[null, null, 15]"),
    "layers Wav2Vec2, Linear, VanillaNN, must be Wav2Vec2, VanillaNN or Sequential, Linear": (
        "    enc: !ref <enc>\n    ctc_lin: !ref <ctc_lin>",
        "    ctc_lin: !ref <ctc_lin>\n    enc: !ref <enc>",
    ),
    "tokenizer: SentencePieceProcessor, must be !new:speechbrain.dataio": (
        "!new:speechbrain.dataio.encoder.CTCTextEncoder",
        "!new:sentencepiece.SentencePieceProcessor",
    ),
    "pretrainer.loadables: must list wav2vec2": ("        wav2vec2: !ref <wav2vec2>\n", ""),
}


@pytest.mark.parametrize("problem", EDITS)
def test_what_does_not_fit_is_one_line(wav2vec2_folder: Path, tmp_path: Path, problem: str) -> None:
    folder = edited(wav2vec2_folder, tmp_path / "f", *EDITS[problem])
    with pytest.raises(UserError, match=problem) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)


HEADS = {
    "Linear, BatchNorm1d, Dropout, must be Linear, BatchNorm1d": (
        "    activation: !new:torch.nn.LeakyReLU\n",
        "",
    ),
    "must be blocks of Linear, LeakyReLU, and BatchNorm1d and Dropout in all of them": (
        "    bn1: !name:speechbrain.nnet.normalization.BatchNorm1d\n",
        "",
    ),
    r"bn1.momentum: 0.5, must be 0.1": (
        "BatchNorm1d\n    act",
        "BatchNorm1d\n        momentum: 0.5\n    act",
    ),
    "enc.linear1: LeakyReLU, must come after a Linear": (
        "linear1: !name:speechbrain.nnet.linear.Linear\n        n_neurons: !ref <dnn_neurons>\n        bias: True",
        "linear1: !new:torch.nn.LeakyReLU",
    ),
}


@pytest.fixture(scope="module")
def batch_norm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    write_wav2vec2_folder(folder, batch_norm=True)
    return folder


@pytest.mark.parametrize("problem", HEADS)
def test_another_head_is_one_line(batch_norm_folder: Path, tmp_path: Path, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read_folder(edited(batch_norm_folder, tmp_path / "f", *HEADS[problem]))


def test_labels_are_read_as_speechbrain_reads_them(wav2vec2_folder: Path) -> None:
    theirs = CTCTextEncoder()
    theirs.load(wav2vec2_folder / "tokenizer.ckpt")
    assert read_folder(wav2vec2_folder).labels == [theirs.ind2lab[index] for index in range(31)]


LABEL_FILES = {
    r"line 1: .*must be a label": "'a' = 1\n",
    r"line 2: .*must be a label": "'<blank>' => 0\n__import__('os').getcwd() => 1\n",
    "must number its labels 0 to 1, each once": "'<blank>' => 0\n'a' => 2\n",
    "labels must be texts": "'<blank>' => 0\n3 => 1\n",
    "'<none>', the blank, must be a label": "'<blank>' => 0\n================\n'blank_label' => '<none>'\n",
    "must number its labels": "",
}


@pytest.mark.parametrize("problem", LABEL_FILES)
def test_a_label_file_runs_nothing_and_numbers_each_label_once(
    wav2vec2_folder: Path, tmp_path: Path, problem: str
) -> None:
    folder = tmp_path / "f"
    shutil.copytree(wav2vec2_folder, folder)
    (folder / "tokenizer.ckpt").write_text(LABEL_FILES[problem])
    with pytest.raises(UserError, match=problem):
        read_folder(folder)
    (folder / "tokenizer.ckpt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="must be text"):
        read_folder(folder)
