"""The models that a report compares: the float model that a run's configuration starts from, and the run's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qat.evaluation.candidates import candidates_of, float_twin
from qat.models.float_start import keep_start
from qat.models.loading import save_module
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.recipe import Recipe
from qat.system.errors import UserError
from qat.system.files import sha256_path
from tests.conftest import build, noise, write_hugging_face
from tests.models.speechbrain_folders import write_attention_folder
from tests.runtime.conftest import Exported


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A Hugging Face folder."""
    write_hugging_face(tmp_path / "hub")
    return tmp_path / "hub"


def moved(pretrained: Path, path: Path, preset: str) -> Path:
    """The checkpoint of a run from that folder whose weights have moved."""
    model = Wav2Vec2Module(recipe=Recipe(preset=preset), pretrained=str(pretrained))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    save_module(model, path)
    return path


def test_fine_tuning_a_pretrained_model_is_held_against_the_pretrained_one(
    pretrained: Path, tmp_path: Path
) -> None:
    config = {"model": {"init_args": {"init_from": None, "pretrained": str(pretrained)}}}
    signal, lengths = noise(1, 0.5), torch.tensor([8_000])
    start = Wav2Vec2Module(pretrained=str(pretrained)).eval()
    for preset, method, name in (
        ("off", "float control", "control"),
        ("deterministic", "deterministic", "model"),
    ):
        checkpoint = moved(pretrained, tmp_path / f"{preset}.ckpt", preset)
        first, second = candidates_of(checkpoint, config)
        assert (first.method, second.method, second.name) == ("float", method, name)
        with torch.no_grad():
            assert torch.equal(first.module(signal, lengths)[0], start(signal, lengths)[0])
            assert not torch.equal(second.module(signal, lengths)[0], start(signal, lengths)[0])
    assert sha256_path(first.checkpoint) != sha256_path(second.checkpoint)


def test_the_float_twin_is_the_model_with_its_quantizers_off(crdnn: Exported) -> None:
    signal, lengths = noise(1, 0.5), torch.tensor([8_000])
    twin = float_twin(crdnn.module)
    with torch.no_grad():
        quantized = crdnn.module(signal, lengths)[0]
        crdnn.module.quantize(False)
        plain = crdnn.module(signal, lengths)[0]
        crdnn.module.quantize(True)
        assert torch.equal(twin(signal, lengths)[0], plain) and not torch.equal(quantized, plain)


def test_where_the_float_start_is_gone_its_twin_takes_its_place_under_a_name_of_its_own(
    crdnn: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_module(crdnn.module, tmp_path / "model.ckpt")
    config = {"model": {"init_args": {"init_from": str(tmp_path / "gone.ckpt")}}}
    first, second = candidates_of(tmp_path / "model.ckpt", config)
    assert (first.name, first.method, second.name, second.method) == (
        *("float", "same weights in float", "model", "test"),
    )
    assert first.checkpoint == second.checkpoint == tmp_path / "model.ckpt"
    assert "gone.ckpt is gone (not found)" in capsys.readouterr().err


def test_a_control_run_whose_float_start_is_gone_is_not_called_the_float_model(tmp_path: Path) -> None:
    save_module(build("crdnn"), tmp_path / "start.ckpt")
    config = {"model": {"init_args": {"init_from": str(tmp_path / "start.ckpt")}}}
    keep_start(config, tmp_path)
    save_module(build("crdnn"), tmp_path / "model.ckpt")
    for methods in (["float", "float control"], ["float control"]):
        assert [item.method for item in candidates_of(tmp_path / "model.ckpt", config)] == methods
        (tmp_path / "start.ckpt").unlink(missing_ok=True)


def test_a_float_start_of_another_kind_is_refused(pretrained: Path, crdnn: Exported, tmp_path: Path) -> None:
    save_module(crdnn.module, tmp_path / "model.ckpt")
    config = {"model": {"init_args": {"pretrained": str(pretrained)}}}
    with pytest.raises(
        UserError, match="must be the float start of .*, a CRDNNModule, and is a Wav2Vec2Module"
    ):
        candidates_of(tmp_path / "model.ckpt", config)


def test_a_folder_of_speechbrain_is_compared_with_no_other_model(tmp_path: Path) -> None:
    write_attention_folder(tmp_path)
    config = {"model": {"init_args": {"init_from": "checkpoints/mini_crdnn/model.ckpt"}}}
    found = candidates_of(tmp_path / "hyperparams.yaml", config)
    assert [(item.name, type(item.module).__name__) for item in found] == [("float", "AttentionModule")]
