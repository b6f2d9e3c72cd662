"""What an encoder says of one utterance."""

from __future__ import annotations

import numpy as np

from qat.decoding.encoded import Encoded


def test_frames_are_those_of_the_states_and_a_head_is_optional() -> None:
    encoded = Encoded(np.zeros((7, 4)), np.zeros((7, 3)), np.zeros((7, 3)))
    assert encoded.frames == 7
    assert encoded.logits is None
