"""Modules as recognisers."""

from __future__ import annotations

import numpy as np
import torch

from qat.evaluation.module_side import module_side
from qat.runtime.session import Session
from tests.conftest import noise
from tests.runtime.conftest import Exported


def test_a_module_transcribes_with_the_decoder_of_its_file(crdnn: Exported) -> None:
    file, signal = Session(crdnn.integer.path), noise(1, 0.7)
    side = module_side(crdnn.module.eval(), file)
    with torch.no_grad():
        logits = crdnn.module(signal, torch.tensor([signal.shape[1]]))[0][0].numpy()
    emission = side.emit(signal[0].numpy())
    assert np.array_equal(emission.logits, logits) and emission.tokens is None
    assert side.transcribe(signal[0].numpy()) == side.text_of(emission) == file.decode(logits)
