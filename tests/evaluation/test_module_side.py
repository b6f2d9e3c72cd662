"""Modules as recognisers."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from qat.decoding.options import DecodingOptions
from qat.evaluation.module_side import check_export, check_search, module_side
from qat.recipe import Recipe
from qat.runtime.attention_session import open_session
from qat.runtime.formats import DEFAULT_RUNNER, ExportOptions, Runner
from qat.runtime.session import Session
from qat.system.errors import UserError
from tests.conftest import build, noise
from tests.runtime.conftest import Exported


def test_a_module_transcribes_with_the_decoder_of_its_file(crdnn: Exported) -> None:
    file, signal = Session(crdnn.integer.path), noise(1, 0.7)
    side = module_side(crdnn.module.eval(), file)
    with torch.no_grad():
        logits = crdnn.module(signal, torch.tensor([signal.shape[1]]))[0][0].numpy()
    emission = side.emit(signal[0].numpy())
    assert np.array_equal(emission.logits, logits) and emission.tokens is None
    assert side.transcribe(signal[0].numpy()) == side.text_of(emission) == file.decode(logits)


def test_an_attention_module_is_searched_as_its_folder_is(attention: Any) -> None:
    signal = noise(1, 0.8)[0].numpy()
    for decoding in (None, DecodingOptions(beam=2, lm_weight=0.0), DecodingOptions(method="ctc_greedy")):
        file = open_session(attention.integer.path, decoding=decoding)
        side = module_side(attention.module.eval(), file)
        ours, theirs = side.emit(signal), file.emit(signal)
        texts = side.text_of(ours), file.text_of(theirs)
        assert texts[0] == texts[1] and ours.tokens == theirs.tokens is not None
        assert np.abs(ours.logits - theirs.logits).max() < 0.02  # as in the parity of any model
        assert side.transcribe(signal) == texts[0]


def test_a_search_that_a_model_cannot_follow_is_one_line(attention: Any) -> None:
    crdnn = build("crdnn")
    for decoding in (DecodingOptions(), DecodingOptions(method="ctc_greedy")):
        check_search(crdnn, decoding)
    check_search(attention.module, DecodingOptions(beam=3, method="ctc_beam"))
    with pytest.raises(UserError, match=r"decoding.beam: must be left out for CRDNNModule, a CTC model"):
        check_search(crdnn, DecodingOptions(beam=3))
    with pytest.raises(UserError, match=r"decoding.method: must be left out for CRDNNModule"):
        check_search(crdnn, DecodingOptions(method="attention"))
    with pytest.raises(UserError, match="min_ratio"):
        check_search(attention.module, DecodingOptions(min_ratio=2.0))


def test_what_a_report_would_fail_on_is_refused_before(
    crdnn: Exported, attention: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    portable = ExportOptions("qdq")
    check_export(crdnn.module, ExportOptions(), DEFAULT_RUNNER)
    check_export(crdnn.module, portable, Runner("openvino"))
    with pytest.raises(UserError, match="must go with format qdq"):
        check_export(crdnn.module, ExportOptions(), Runner("openvino"))
    check_export(attention.module, portable, Runner("openvino"))
    blocks = build("crdnn", Recipe(preset="x", weight_bits=4, four_bit_linear="matmul_nbits"))
    with pytest.raises(UserError, match="must go with --qat.four_bit_linear integer"):
        check_export(blocks, portable, DEFAULT_RUNNER)
    with pytest.raises(UserError, match="must be qdq for a model of qat.target openvino"):
        check_export(build("crdnn", Recipe(preset="x", target="openvino")), ExportOptions(), DEFAULT_RUNNER)
    with pytest.raises(UserError, match="provider: tensorrt must be in the installed ONNX Runtime"):
        check_export(crdnn.module, portable, Runner(provider="tensorrt"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="openvino must be installed"):
        check_export(crdnn.module, portable, Runner("openvino"))
