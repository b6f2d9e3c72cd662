"""Error rate and latency against the width of the beam."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules.base import SpeechDataModule
from qat.decoding.options import DecodingOptions, SearchSettings
from qat.evaluation import beams
from qat.evaluation.beams import measure_beams
from qat.evaluation.options import EvaluationOptions
from qat.runtime.formats import Runner
from qat.system.errors import UserError


def opener(opened: list[DecodingOptions]) -> Any:
    """Sessions whose text depends on the beam alone."""

    def open_session(path: Path, threads: int, decoding: DecodingOptions, runner: Runner) -> Any:
        assert runner == EvaluationOptions().runner
        opened.append(decoding)
        settings = decoding.over(SearchSettings(beam=4))
        text = "x" if settings.beam == 1 else ""
        return SimpleNamespace(settings=settings, transcribe=lambda signal: text)

    return open_session


def test_beams_up_to_twice_the_models_own_are_measured_on_dev(
    data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[DecodingOptions] = []
    monkeypatch.setattr(beams, "open_session", opener(opened))
    options, decoding = EvaluationOptions(beams=[1, 8, 9]), DecodingOptions(lm_weight=0.25)
    one, eight = measure_beams(Path("model"), data, options, decoding)
    assert (one.beam, eight.beam, one.utterances) == (1, 8, len(data.utterances("dev")))
    assert [item.beam for item in opened] == [None, 1, 8] and {item.lm_weight for item in opened} == {0.25}
    assert (one.wer, eight.wer) == (
        95.0,
        100.0,
    ) and one.latency_ms > 0  # a reference of twenty words has the x


def test_greedy_search_has_no_beam_to_measure(
    data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beams, "open_session", lambda *arguments: SimpleNamespace())
    assert measure_beams(Path("model.onnx"), data, EvaluationOptions(beams=[1]), DecodingOptions()) == []


def test_a_beam_of_nothing_is_one_line() -> None:
    with pytest.raises(UserError, match=r"evaluation.beams: 0, must be whole numbers of 1 or more"):
        EvaluationOptions(beams=[4, 0])
