"""Texts longer than their audio: counted, and never passed over in silence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from qat.models.alignable import ENOUGH, Unalignable, check_share, frames_needed
from qat.system.errors import UserError


@pytest.mark.parametrize("labels", [[1], [1, 2, 3], [1, 1], [2, 2, 2, 1, 1], [1, 2, 1, 2]])
def test_with_one_frame_fewer_than_needed_ctc_has_no_alignment(labels: list[int]) -> None:
    needed = frames_needed(labels)
    for frames, finite in ((needed, True), (needed - 1, False)):
        log_probs = torch.zeros(max(frames, 1), 1, 4).log_softmax(-1)
        loss = F.ctc_loss(
            log_probs, torch.tensor([labels]), torch.tensor([frames]), torch.tensor([len(labels)])
        )
        assert bool(loss.isfinite()) == finite


def test_a_share_above_the_limit_and_all_are_refused() -> None:
    check_share(5, 100, 0.05)
    check_share(0, 0, 0.0)
    with pytest.raises(
        UserError, match=r"6 of 100 utterances have more text .* hold: 'a'; must be at most 5%;"
    ):
        check_share(6, 100, 0.05, ": 'a'")
    with pytest.raises(
        UserError, match="3 of 3 utterances .* must be fewer than all; .*--data.max_unalignable"
    ):
        check_share(3, 3, 1.0)


def test_the_first_text_is_named_and_many_stop_training() -> None:
    counter = Unalignable(limit=0.1)
    counter.add([[1]] * (ENOUGH - 11), [1] * (ENOUGH - 11), ["a"] * (ENOUGH - 11))
    with pytest.warns(UserWarning, match="text 'aa' needs 3 frames, its audio gives 2: it teaches nothing"):
        counter.add([[1, 1]] * 10, [2] * 10, ["aa"] * 10)
    assert (counter.seen, counter.count) == (ENOUGH - 1, 10)
    with pytest.raises(UserError, match=f"train: 11 of {ENOUGH} utterances"):
        counter.add([[1, 1]], [2], ["aa"])
