"""Float models that a run starts from or learns from: files, folders and hub names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers.utils import hub

from qat.models.loading import find_float, load_float, load_teacher_
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.system.errors import UserError
from qat.system.files import sha256_path
from tests.conftest import noise, write_hugging_face


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
