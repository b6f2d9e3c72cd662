"""What a run is held against: the float model that its configuration starts from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers.utils import hub

from qat.evaluation.candidates import candidates_of
from qat.models.loading import find_float, load_float, load_teacher_, save_module
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.recipe import Recipe
from qat.system.errors import UserError
from qat.system.files import sha256_path
from tests.conftest import noise, write_hugging_face


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


def test_a_pretrained_model_may_teach(pretrained: Path) -> None:
    student = Wav2Vec2Module(pretrained=str(pretrained), teacher=str(pretrained))
    load_teacher_(student)
    teacher = student.teacher
    assert teacher is not None
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


def test_a_folder_is_hashed_by_names_and_bytes(tmp_path: Path) -> None:
    hashes = set()
    for name, content in (("a", "x"), ("a", "y"), ("b", "y")):
        shutil.rmtree(tmp_path / "f", ignore_errors=True)
        (tmp_path / "f" / "in").mkdir(parents=True)
        (tmp_path / "f" / "in" / name).write_text(content)
        hashes.add(sha256_path(tmp_path / "f"))
    assert len(hashes) == 3
