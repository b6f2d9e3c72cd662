"""Texts against frames before a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.base import SpeechDataModule
from datamodules.manifest import ManifestDataModule
from datamodules.utterance import Utterance
from qat.models.check_texts import check_texts, unalignable
from qat.system.errors import UserError
from tests.conftest import build
from tests.datamodules.corpora import sine, write_audio, write_jsonl
from tests.models.attention_models import attention_model


def corpus(folder: Path, texts: list[str], **more: Any) -> ManifestDataModule:
    write_audio(folder / "a.wav", sine(0.5))
    rows: list[dict[str, object]] = [
        {"id": str(index), "audio": "a.wav", "text": text} for index, text in enumerate(texts)
    ]
    train = str(write_jsonl(folder / "train.jsonl", rows))
    dev = str(write_jsonl(folder / "dev.jsonl", rows[:1]))
    return ManifestDataModule(train=train, dev=dev, test=dev, **more)


def test_a_manifest_of_texts_that_do_not_fit_stops_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"train: 2 of 2 utterances .*'0' \(60 frames, has 17\), '1'.*fewer than all"
    ):
        check_texts(build("crdnn"), corpus(tmp_path, ["ab" * 30, "cd" * 30], max_unalignable=1.0))


def test_a_few_are_named_and_more_than_the_users_share_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["one"] * 9 + ["mississippi mississippi"]
    model = build("crdnn")
    with caplog.at_level(logging.INFO):
        check_texts(model, corpus(tmp_path, texts, max_unalignable=0.1))
    assert "train: 1 of 10 utterances" in caplog.text and "'9' (29 frames, has 17)" in caplog.text
    assert model.unalignable.limit == 0.1
    with pytest.raises(UserError, match=r"1 of 10 utterances .*must be at most 5%"):
        check_texts(model, corpus(tmp_path, texts))


def test_what_cannot_be_counted_beforehand_is_counted_in_training() -> None:
    model = build("crdnn").train()
    logits = torch.zeros(100, 2, len(model.vocabulary), requires_grad=True)
    with (
        pytest.warns(UserWarning, match="text 'ab' needs 2 frames"),
        pytest.raises(UserError, match="100 of 100"),
    ):
        model.ctc_loss(logits, torch.ones(100, dtype=torch.int64), ["ab"] * 100)
    model.eval().ctc_loss(logits, torch.ones(100, dtype=torch.int64), ["ab"] * 100)
    assert model.unalignable.seen == 100, "dev is not training"


def test_a_model_without_a_ctc_loss_aligns_anything(tmp_path: Path) -> None:
    data = corpus(tmp_path, ["ab" * 30])
    check_texts(attention_model(tmp_path, ctc_weight=0.0), data)
    with pytest.raises(UserError, match="1 of 1 utterances"):
        check_texts(attention_model(tmp_path, ctc_weight=0.3), data)


def test_what_is_alignable_is_not_named(tiny_data: SpeechDataModule) -> None:
    assert unalignable(build("wav2vec2"), [Utterance("a", Path("a.wav"), "turn on", 0.5)]) == []
