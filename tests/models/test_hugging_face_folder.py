"""What a Hugging Face folder says is built, or refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertForCTC,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    Wav2Vec2Processor,
    WavLMConfig,
    WavLMForCTC,
)
from transformers.utils import hub

from qat.models.hugging_face_folder import labels_of, read_preprocessor
from qat.models.loading import load_float, load_module, save_module
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.system.errors import UserError
from tests.conftest import TINY_WAV2VEC2, noise, write_hugging_face

LETTERS = ["<pad>", "|", "<unk>", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder, which no test changes."""
    folder = tmp_path_factory.mktemp("written")
    write_hugging_face(folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the good folder."""
    return Path(shutil.copytree(written, tmp_path / "hub"))


def change(file: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def change_weights(folder: Path, work: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the weights in place."""
    weights = load_file(folder / "model.safetensors")
    work(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder: Path, problem: str) -> str:
    """The one line that refuses a folder; it names it."""
    with pytest.raises(UserError, match=problem) as error:
        load_float(folder)
    assert str(folder) in str(error.value) and "must" in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def with_head(folder: Path, outputs: int) -> None:
    """The same folder with a head of other outputs and a tokenizer that brings no `<s>` and `</s>`."""
    Wav2Vec2ForCTC(Wav2Vec2Config(**TINY_WAV2VEC2["config"], vocab_size=outputs)).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({label: index for index, label in enumerate(LETTERS)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)


def test_labels_are_the_outputs_of_the_head_and_no_token_that_save_pretrained_adds(folder: Path) -> None:
    with_head(folder, 30)
    assert len(Wav2Vec2CTCTokenizer.from_pretrained(folder).get_vocab()) == 32
    model = load_float(folder)
    assert model.vocabulary == LETTERS and model.blank == 0
    save_module(model, folder / "model.ckpt")
    assert load_module(folder / "model.ckpt").vocabulary == LETTERS


def test_an_output_without_a_label_and_a_blank_without_an_output_are_refused(folder: Path) -> None:
    with_head(folder, 40)
    refused(folder, "vocab.json: 32 labels, must be 40, one for each output of the head; output 32 has none")
    with_head(folder, 30)
    change(folder / "tokenizer_config.json", pad_token="</s>")
    refused(folder, "pad_token: '</s>', must be the label of one of the head's 30 outputs")


def test_labels_are_whole_numbers_of_their_own() -> None:
    with pytest.raises(UserError, match="'b': 0, must be an output of its own; 'a' has it too"):
        labels_of("vocab.json", {"a": 0, "b": 0}, 1)
    with pytest.raises(UserError, match="'eng': must be a whole number .* name one as target_lang"):
        labels_of("vocab.json", {"eng": {"a": 0}}, 1)
    assert labels_of("vocab.json", {"a": 0, "b": 1, "c": 1}, 1) == ["a"]  # beyond the head nothing matters


@pytest.mark.parametrize("kind", ["hubert", "wavlm"])
def test_a_folder_of_another_model_type_is_refused(kind: str, folder: Path) -> None:
    config, model = {"hubert": (HubertConfig, HubertForCTC), "wavlm": (WavLMConfig, WavLMForCTC)}[kind]
    model(config(**TINY_WAV2VEC2["config"], vocab_size=31)).save_pretrained(folder)
    refused(folder, f"config.json: model_type: '{kind}', must be of a model of the type wav2vec2")


def test_a_model_without_a_head_is_refused(folder: Path) -> None:
    Wav2Vec2Model(Wav2Vec2Config(**TINY_WAV2VEC2["config"])).save_pretrained(folder)
    refused(folder, "weights lack 'lm_head.bias' \\(a model without a CTC head\\), must hold all 2")


def test_weights_are_all_there_and_no_others(folder: Path, written: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("wav2vec2.encoder.layers.1.attention.q_proj.weight"))
    refused(folder, "weights lack 'wav2vec2.encoder.layers.1.attention.q_proj.weight', must hold all 1")
    shutil.copy(written / "model.safetensors", folder)
    change_weights(folder, lambda weights: weights.update({"wav2vec2.adapter.proj.bias": torch.zeros(2)}))
    refused(folder, "weights hold 'wav2vec2.adapter.proj.bias', must hold none but a Wav2Vec2ForCTC's")
    shutil.copy(written / "model.safetensors", folder)
    change_weights(folder, lambda weights: weights.update({"lm_head.weight": torch.zeros(9, 16)}))
    refused(folder, r"'lm_head.weight' has the shape \(9, 16\), must be \(31, 16\), as config.json says")
    (folder / "model.safetensors").write_bytes(b"x" * 99)
    refused(folder, "must hold a Wav2Vec2's weights")
    shutil.copy(written / "model.safetensors", folder)
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "adapter_config.json: must not be there")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, folder: Path) -> None:
    change_weights(folder, lambda weights: weights["lm_head.weight"][1, 2].fill_(value))
    refused(folder, r"weights: 'lm_head\.weight' holds NaN or infinity, must be finite")


def test_names_of_older_weights_and_an_absent_mask_are_no_fault(folder: Path) -> None:
    expected = load_float(folder).state_dict()

    def rename(weights: dict[str, torch.Tensor]) -> None:
        weights.pop("wav2vec2.masked_spec_embed")
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            stem = "wav2vec2.encoder.pos_conv_embed.conv."
            weights[stem + old] = weights.pop(f"{stem}parametrizations.weight.{new}")

    change_weights(folder, rename)
    found = load_float(folder).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected if "masked" not in key)
    change(folder / "config.json", mask_time_prob=0.0)
    change_weights(folder, lambda weights: weights.update({"wav2vec2.masked_spec_embed": torch.zeros(16)}))
    load_float(folder)


@pytest.mark.parametrize(
    ("file", "fields", "problem"),
    [
        ("config.json", {"add_adapter": True}, "add_adapter: True, must be false"),
        ("config.json", {"feat_proj_layer_norm": False}, "feat_proj_layer_norm: False, must be true"),
        (
            "config.json",
            {"position_embeddings_type": "rotary"},
            "position_embeddings_type: 'rotary', must be absent",
        ),
        ("config.json", {"num_buckets": 320}, "num_buckets: 320, must be absent"),
        ("config.json", {"hidden_size": "x"}, "hidden_size: 'x', must be whole and at least 1"),
        ("config.json", {"conv_stride": [5, 2, 2, 0, 2, 2, 2]}, "conv_stride: .*, must be whole"),
        ("config.json", {"hidden_act": "swoosh"}, "must hold a Wav2Vec2's weights .'swoosh'"),
        (
            "config.json",
            {"mask_feature_prob": 0.1, "mask_feature_length": 64},
            "mask_feature_length: 64, must be at most hidden_size, 16",
        ),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate: 8000, must be 16000"),
        ("preprocessor_config.json", {"do_normalize": 1}, "do_normalize: 1, must be true or false"),
        ("preprocessor_config.json", {"feature_size": 80}, "feature_size: 80, must be 1"),
        (
            "preprocessor_config.json",
            {"feature_extractor_type": "SeamlessM4TFeatureExtractor"},
            'must be "Wav2Vec2FeatureExtractor"',
        ),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"},
            "tokenizer_class: 'Wav2Vec2PhonemeCTCTokenizer', must be",
        ),
        (
            "tokenizer_config.json",
            {"replace_word_delimiter_char": "_"},
            "replace_word_delimiter_char: '_', must be",
        ),
    ],
)
def test_what_is_not_built_is_refused(file: str, fields: dict[str, Any], problem: str, folder: Path) -> None:
    change(folder / file, **fields)
    refused(folder, problem)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_what_is_no_json_object_is_refused(file: str, folder: Path) -> None:
    (folder / file).write_text("[1]")
    refused(folder, f"{file}: must be a JSON file")


def test_a_nested_preprocessor_counts_as_one(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(folder)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=False), tokenizer).save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists()
    assert not load_float(folder).options.do_normalize
    file = folder / "processor_config.json"
    change(file, feature_extractor={**json.loads(file.read_text())["feature_extractor"], "sampling_rate": 8})
    refused(folder, "processor_config.json: sampling_rate: 8, must be 16000")


def test_the_preprocessor_counts_beside_labels_of_the_users_own(folder: Path) -> None:
    change(folder / "preprocessor_config.json", do_normalize=False)
    (folder / "vocab.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    labels = ["<blank>", *(chr(0x4E00 + index) for index in range(30))]
    model = Wav2Vec2Module(pretrained=str(folder), vocabulary=labels)
    assert not model.options.do_normalize and model.vocabulary == labels


@torch.no_grad()
def test_fields_that_mean_nothing_are_named_and_a_checkpoint_leaves_them_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(folder / "config.json", feat_extract_dropout=0.0, mask_channel_prob=0.1)
    with caplog.at_level("INFO"):
        model = load_float(folder)
    assert "no meaning for a Wav2Vec2 have feat_extract_dropout, mask_channel_prob" in caplog.text
    save_module(model, folder / "model.ckpt")
    signal, lengths = noise(1, 0.5), torch.tensor([8_000])
    assert torch.equal(load_module(folder / "model.ckpt")(signal, lengths)[0], model(signal, lengths)[0])


@torch.no_grad()
def test_weights_of_half_precision_are_read_in_float32(folder: Path) -> None:
    change(folder / "config.json", dtype="float16")
    change_weights(folder, lambda weights: weights.update({key: w.half() for key, w in weights.items()}))
    model = load_float(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(noise(1, 0.5), torch.tensor([8_000]))[0].isfinite().all()


def test_a_hub_name_without_a_preprocessor_at_hand_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache" / "models--some--model" / "refs").mkdir(parents=True)
    (tmp_path / "cache" / "models--some--model" / "refs" / "main").write_text("abc")
    snapshot = tmp_path / "cache" / "models--some--model" / "snapshots" / "abc"
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert read_preprocessor("some/model") == {"do_normalize": True}
    (snapshot / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="some/model: must hold preprocessor_config.json"):
        read_preprocessor("some/model")


def test_the_tokenizers_language_is_that_of_the_adapter_in_the_weights(folder: Path) -> None:
    letters = json.loads((folder / "vocab.json").read_text())
    config = Wav2Vec2Config(**TINY_WAV2VEC2["config"], adapter_attn_dim=4, vocab_size=31)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({"fra": letters}))
    change(folder / "tokenizer_config.json", target_lang="fra")
    assert load_float(folder).vocabulary[3] == "|"
    weights = load_file(folder / "model.safetensors")
    adapter = {key: value for key, value in weights.items() if "adapter_layer" in key or "lm_head" in key}
    save_file(adapter, folder / "adapter.fra.safetensors")
    load_float(folder)
    save_file({key: value + 1 for key, value in adapter.items()}, folder / "adapter.fra.safetensors")
    refused(folder, "target_lang: 'fra', must be the language of the adapter in the weights")
