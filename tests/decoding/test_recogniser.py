"""What evaluation asks of a recogniser is what an exported file offers."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from qat.decoding.ctc import GreedyCTC
from qat.decoding.recogniser import Decoder, Emission, Recogniser
from qat.runtime.session import Session


@pytest.mark.parametrize(
    ("protocol", "ours", "methods"),
    [(Recogniser, Session, ("emit", "text_of", "transcribe")), (Decoder, GreedyCTC, ("decode",))],
)
def test_the_shipped_classes_follow_the_protocols(
    protocol: type, ours: type, methods: tuple[str, ...]
) -> None:
    for name in methods:
        asked, offered = (inspect.signature(getattr(item, name)) for item in (protocol, ours))
        assert list(asked.parameters) == list(offered.parameters), name


def test_frames_alone_are_an_emission() -> None:
    emission = Emission(np.zeros((3, 5), np.float32))
    assert emission.encoded is None and emission.tokens is None
