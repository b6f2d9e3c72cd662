"""The guide finds where characters are spoken, and its loss is least where attention lies there."""

from pathlib import Path

import pytest
import torch

from datamodules.text import ALPHABET
from qat.models.attention_guide import MARGIN, AttentionGuide, character_frames, guide_loss
from qat.models.crdnn import CRDNNModule
from qat.models.loading import save_module
from qat.system.errors import UserError


def scores(text: str, spacing: int) -> torch.Tensor:
    """Log posteriors with a peak for each character, `spacing` frames apart, blanks between."""
    found = torch.full((spacing * len(text) + 1, len(ALPHABET) + 1), -20.0)
    found[:, 0] = 0.0
    for place, character in enumerate(text):
        frame = place * spacing + spacing - 1
        found[frame, 0], found[frame, ALPHABET.index(character) + 1] = -20.0, 0.0
    return found


def test_each_character_is_found_at_its_peak_repeated_ones_too() -> None:
    assert character_frames(scores("all a", 4), "all a") == [3, 7, 11, 15, 19]
    assert character_frames(scores("a", 1)[:1], "all") == []


def test_windows_follow_the_pieces_and_the_end_has_the_last_frames(tmp_path: Path) -> None:
    module = CRDNNModule(dnn_neurons=len(ALPHABET) + 1)
    with torch.no_grad():
        module.head.weight.copy_(torch.eye(len(ALPHABET) + 1))
        module.head.bias.zero_()
    save_module(module, tmp_path / "ctc.ckpt")
    guide = AttentionGuide(str(tmp_path / "ctc.ckpt"))
    hidden = scores("go on", 10)[None]
    windows = guide.windows(hidden, torch.tensor([51]), ["go on"], [["\u2581go", "\u2581", "on"]])
    begin_end = [(int(row.nonzero().min()), int(row.nonzero().max())) for row in windows[0]]
    assert begin_end == [
        (9 - MARGIN, 19 + MARGIN),
        (29 - MARGIN, 29 + MARGIN),
        (39 - MARGIN, 49 + 1),
        (49 - MARGIN, 50),
    ]


def test_a_model_with_other_labels_cannot_guide(tmp_path: Path) -> None:
    module = CRDNNModule()
    module.head = torch.nn.Linear(160, 5)
    save_module(module, tmp_path / "ctc.ckpt")
    with pytest.raises(UserError, match="must be a CRDNN with a head of 29 characters"):
        AttentionGuide(str(tmp_path / "ctc.ckpt"))


def test_the_loss_is_zero_inside_the_windows_and_skips_labels_without_one() -> None:
    windows = torch.tensor([[[True, True, False], [False, False, False]]])
    inside, beside = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]]), torch.tensor([[[0.0, 0.5, 0.5]] * 2])
    assert float(guide_loss(inside, windows)) == 0.0
    torch.testing.assert_close(guide_loss(beside, windows), torch.tensor(2.0).log())
    assert float(guide_loss(inside, torch.zeros_like(windows))) == 0.0
