"""Models from files, and back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import hub

from qat.layers.swap import quant_layers, quantizers
from qat.models.checkpoint import read_checkpoint, write_checkpoint
from qat.models.loading import (
    find_float,
    load_float,
    load_module,
    load_teacher_,
    save_module,
    sha256_of_float,
)
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.recipe import Recipe
from qat.runs import sha256_of_checkpoint
from qat.system.errors import UserError
from tests.conftest import build, noise, write_hugging_face
from tests.models.conftest import padded_batch
from tests.models.speechbrain_folders import cached_folder_of
from tests.pretend_gpu import PretendGPU, is_on_gpu


def test_saved_module_loads_equal_with_weights_only(kind: str, tmp_path: Path) -> None:
    model = build(kind, Recipe(preset="ptq_max")).eval()
    model.fold_batch_norm()
    save_module(model, tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)
    loaded = load_module(tmp_path / "model.ckpt")
    signal, lengths = padded_batch()
    assert torch.equal(loaded(signal, lengths)[0], model(signal, lengths)[0])
    assert loaded.recipe == model.recipe


def test_a_module_on_a_gpu_is_saved_as_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, Any] = {}
    monkeypatch.setattr(
        "qat.models.loading.write_checkpoint", lambda checkpoint, _: written.update(checkpoint)
    )
    with PretendGPU():
        model = build("crdnn", Recipe(preset="ptq_max")).to("cuda:0")
        save_module(model, tmp_path / "model.ckpt")
    assert written["state_dict"].keys() == model.state_dict().keys()
    assert not any(map(is_on_gpu, written["state_dict"].values())) and is_on_gpu(model.head.weight)


def test_a_class_that_this_version_does_not_know_is_named(tmp_path: Path) -> None:
    save_module(build("crdnn"), tmp_path / "model.ckpt")
    write_checkpoint(
        {**read_checkpoint(tmp_path / "model.ckpt"), "model": "qat.models.Whisper"}, tmp_path / "other.ckpt"
    )
    with pytest.raises(
        UserError, match=r"'qat\.models\.Whisper', must be one of AttentionModule, CRDNNModule"
    ):
        load_module(tmp_path / "other.ckpt")


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A Hugging Face folder."""
    write_hugging_face(tmp_path / "hub")
    return tmp_path / "hub"


def test_a_pretrained_model_may_teach(pretrained: Path) -> None:
    student = Wav2Vec2Module(pretrained=str(pretrained), teacher=str(pretrained))
    load_teacher_(student)
    teacher = student.teacher
    assert teacher is not None
    assert teacher.sha256 == sha256_of_float(str(pretrained)) == sha256_of_checkpoint(pretrained)
    assert sha256_of_float("no/model") == ""
    signal, lengths = noise(1, 0.5), torch.tensor([8_000])
    with torch.no_grad():
        logits, frames = student.eval()(signal, lengths)
        assert float(teacher.loss(logits, frames, signal, lengths, torch.tensor([2]))) == pytest.approx(
            0.0, abs=1e-5
        )


def test_a_hub_name_is_found_in_the_cache(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    (cache / "models--some--model" / "refs").mkdir(parents=True)
    (cache / "models--some--model" / "refs" / "main").write_text("abc")
    snapshot = cache / "models--some--model" / "snapshots" / "abc"
    shutil.copytree(pretrained, snapshot)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(cache))
    assert find_float("some/model") == snapshot
    assert find_float("no/model") is None
    assert find_float(str(tmp_path / "nothing.ckpt")) is None and find_float("") is None


def test_what_is_neither_checkpoint_nor_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        load_float(tmp_path / "nothing.ckpt")
    with pytest.raises(UserError, match="neither a local folder nor a hub model"):
        load_float(tmp_path / "nothing")


DATA = Path(__file__).resolve().parents[1] / "data"


def linear_then(self: Any, x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """`FrameQuantizer.linear` as it was."""
    levels, scale, zero_point = self.levels(x)
    out = F.linear(levels, weight).mul_(weight_scale).mul_(scale)
    rest = (zero_point * scale) * -(weight.sum(1) * weight_scale)
    return out.add_(rest if bias is None else rest.add_(bias))


@pytest.mark.parametrize("kind", ["crdnn", "wav2vec2"])
@torch.no_grad()
def test_an_older_checkpoint_computes_the_same_bits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files hold tiny models (ranges by frame, blocks, half steps, AdaRound, learned scales), written before
    quantizers were small classes; `expected` holds the logits of that code, evaluated and in a training step that
    rounds to nearest (its noise came from a generator)."""
    path = DATA / f"before_rooms_{kind}.ckpt"
    stored = torch.load(path, weights_only=True)
    signal, lengths = noise(2, 1.5, seed=3), torch.tensor([24_000, 16_000])
    # the CRDNN read padding after a shorter row then
    monkeypatch.setattr("qat.models.crdnn.mirrored", lambda x, frames, width: x)
    # zero points of rows were taken off in float
    monkeypatch.setattr("qat.layers.frames.FrameQuantizer.linear", linear_then)
    module = load_module(path)
    rounded = [
        quantizer.ada_rounded for _, layer in quant_layers(module) for _, _, quantizer in layer.weights()
    ]
    assert any(rounded) and not all(rounded)
    # a trained transformer's float kernels may differ in the last bits between processors
    tolerance = {"rtol": 0.0, "atol": 1e-5}
    torch.testing.assert_close(module(signal, lengths)[0], stored["expected"]["evaluated"], **tolerance)
    save_module(module, tmp_path / "again.ckpt")
    again = load_module(tmp_path / "again.ckpt")
    assert torch.equal(again(signal, lengths)[0], module(signal, lengths)[0])
    module.train()
    for _, quantizer in quantizers(module):
        if hasattr(quantizer, "recipe"):
            quantizer.recipe = replace(quantizer.recipe, rounding="nearest")
    torch.manual_seed(0)
    np.random.seed(0)
    # between quantizers such a bit can move a value to the next level, which shows in a frame or two
    apart = (module(signal, lengths)[0] - stored["expected"]["trained"]).abs().amax(-1)
    assert (apart <= tolerance["atol"]).float().mean() > 0.95 and apart.max() < 0.05


def test_a_speechbrain_folder_is_a_float_model(attention_folder: Path, wav2vec2_folder: Path) -> None:
    signal, lengths = padded_batch()
    for folder, name in (
        (attention_folder, "AttentionModule"),
        (wav2vec2_folder, "SpeechBrainWav2Vec2Module"),
    ):
        model, same = load_float(str(folder)), load_module(folder / "hyperparams.yaml")
        assert type(model).__name__ == name and not model.training
        assert find_float(str(folder)) == folder / "hyperparams.yaml"  # one model is not measured twice
        assert torch.equal(model(signal, lengths)[0], same(signal, lengths)[0])


def test_a_hub_name_of_a_speechbrain_folder_is_found_in_the_cache(
    wav2vec2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached_folder_of(tmp_path, "some/model")
    shutil.copytree(wav2vec2_folder, snapshot)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_float("some/model") == snapshot
    assert type(load_float("some/model")).__name__ == "SpeechBrainWav2Vec2Module"
    (snapshot / "config.json").unlink()  # ours looks for hyperparams.yaml, not for what transformers look for
    assert find_float("some/model") == snapshot
