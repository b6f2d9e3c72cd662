"""Transcripts of the test sets."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from datamodules.base import SpeechDataModule
from datamodules.manifest import ManifestDataModule
from qat.decoding.windows import WindowedRecogniser
from qat.evaluation.exported import ExportedModel
from qat.evaluation.options import EvaluationOptions
from qat.evaluation.parity import check_parity
from qat.evaluation.transcripts import cache_file, read_splits, transcribe_split
from qat.runtime.session import Session


class FrameCounter:
    """A decoder that is not CTC."""

    def decode(self, logits: NDArray[Any]) -> str:
        return f"frames {len(logits)}"


@pytest.fixture
def loads(data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of utterances of every loader that is made."""
    made: list[int] = []
    loader = data.loader

    def counted(utterances: Any, **more: Any) -> Any:
        made.append(len(utterances))
        return loader(utterances, **more)

    monkeypatch.setattr(data, "loader", counted)
    return made


def test_a_split_holds_all_utterances_and_their_fingerprint(data: SpeechDataModule) -> None:
    splits = read_splits(data)
    assert [split.name for split in splits] == ["test_a", "test_b"]
    assert splits[0].fingerprint == data.split_fingerprint("test_a") != splits[1].fingerprint
    perfect = splits[0].errors([item.text for item in splits[0].utterances])
    assert len(perfect) == 4 and not any(item.counts.errors for item in perfect)


def test_a_test_set_is_read_once_for_all_models(
    models: list[ExportedModel], data: SpeechDataModule, loads: list[int]
) -> None:
    split = read_splits(data)[0]
    plain, quantized = transcribe_split(models, split, data, EvaluationOptions())
    assert loads == [4]
    for found, model in ((plain, models[0]), (quantized, models[1])):
        alone = [
            model.recogniser.transcribe(batch.signal[0].numpy())
            for batch in data.loader(data.utterances("test_a"))
        ]
        assert [item.hypothesis for item in found.utterances] == alone
    assert plain.parity is None
    module, recogniser = models[1].candidate.module, models[1].recogniser
    batches = data.loader(data.utterances("test_a"))
    assert quantized.parity == check_parity(module, recogniser, batches)


def test_the_text_is_the_decoders(models: list[ExportedModel], data: SpeechDataModule) -> None:
    """A decoder other than greedy CTC needs no change of evaluation."""
    counted = [replace(model, recogniser=Session(model.file, decoder=FrameCounter())) for model in models]
    for found in transcribe_split(counted, read_splits(data)[0], data, EvaluationOptions()):
        assert all(item.hypothesis.startswith("frames ") for item in found.utterances)


def test_texts_of_a_float_file_are_kept_and_not_read_again(
    models: list[ExportedModel], data: SpeechDataModule, loads: list[int], tmp_path: Path
) -> None:
    split, options = read_splits(data)[0], EvaluationOptions(cache=str(tmp_path))
    first = transcribe_split(models[:1], split, data, options)
    assert len(list(tmp_path.glob("*.json"))) == 1 and loads == [4]
    assert transcribe_split(models[:1], split, data, options) == first
    assert loads == [4], "the second time nothing is read"
    transcribe_split(models[:1], read_splits(data)[1], data, options)
    assert loads == [4, 4], "another split is"
    transcribe_split(models[1:], split, data, options)
    assert len(list(tmp_path.glob("*.json"))) == 2, "quantized models are not kept"
    assert np.isfinite([item.duration_s for item in first[0].utterances]).all()


def test_texts_are_not_kept_for_other_audio_under_the_same_ids(
    models: list[ExportedModel], tiny_manifests: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(tiny_manifests["train"].parent, folder)
    caches = []
    for seed in (0, 0, 1):
        audio = 0.1 * np.random.default_rng(seed).standard_normal(8_000)
        soundfile.write(folder / "test_a-0.wav", audio, 16_000)
        paths = [str(folder / f"{name}.jsonl") for name in ("train", "dev", "test_a")]
        split = read_splits(ManifestDataModule(*paths))[0]
        caches.append(cache_file(models[0], split, EvaluationOptions(cache=str(tmp_path))))
    assert caches[0] == caches[1] != caches[2]


def test_long_utterances_are_read_in_windows_file_and_module_alike_and_it_says_so(
    models: list[ExportedModel],
    tiny_manifests: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    audio = 0.1 * np.random.default_rng(0).standard_normal(16_000 * 25)
    soundfile.write(tmp_path / "long.wav", audio, 16_000)
    (tmp_path / "test.jsonl").write_text('{"id": "long", "audio": "long.wav", "text": "a"}\n')
    paths = [str(tiny_manifests[name]) for name in ("train", "dev")]
    data = ManifestDataModule(*paths, str(tmp_path / "test.jsonl"))
    split, options = read_splits(data)[0], EvaluationOptions(window_s=10)
    plain, quantized = transcribe_split(models, split, data, options)
    assert "1 utterances, 1 of them longer than 10 s, in windows" in capsys.readouterr().out
    signal = next(iter(data.loader(split.utterances))).signal[0].numpy()
    for found, model in ((plain, models[0]), (quantized, models[1])):
        text = WindowedRecogniser(model.recogniser, 10).transcribe(signal)
        assert found.utterances[0].hypothesis == text
    assert quantized.parity is not None and quantized.parity["max_abs_logit"] < 0.1
