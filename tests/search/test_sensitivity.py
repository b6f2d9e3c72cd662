"""The loss of a model is the mean divergence of its posteriors over the valid frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from datamodules.base import SpeechDataModule
from qat.search.sensitivity import loss_of, reference_of
from tests.models.attention_models import attention_model
from tests.search.conftest import decided


def test_the_float_model_loses_nothing(kind: str, tiny_data: SpeechDataModule) -> None:
    module = decided(kind)
    assert loss_of(module, reference_of(module, tiny_data, tiny_data.utterances("dev"))) == 0.0


def test_tokens_and_language_model_of_an_attention_model_count(
    tmp_path: Path, tiny_data: SpeechDataModule
) -> None:
    """A bias of one head moves the posteriors of that head alone."""
    utterances, module = tiny_data.utterances("dev"), attention_model(tmp_path)
    reference = reference_of(module, tiny_data, utterances)
    assert loss_of(module, reference) == 0.0
    for head in ("ctc_lin.w", "seq_lin.w", "lm.out.w"):
        other = attention_model(tmp_path)
        bias = other.get_submodule(head).bias
        with torch.no_grad():
            bias.add_(torch.linspace(-1, 1, bias.numel()))
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in tiny_data.loader(utterances):
                (theirs, valid), (ours, _) = module.posteriors(batch), other.posteriors(batch)
                pair = F.log_softmax(ours, -1), F.log_softmax(theirs, -1)
                total += float(F.kl_div(*pair, reduction="sum", log_target=True))
                count += int(valid)
        assert loss_of(other, reference) == pytest.approx(total / count, rel=1e-3), head


def test_it_is_the_mean_over_valid_frames(tiny_data: SpeechDataModule) -> None:
    module, other = decided("crdnn"), decided("crdnn")
    with torch.no_grad():
        other.head.bias.add_(torch.linspace(-1, 1, other.head.bias.numel()))
    utterances = tiny_data.utterances("dev")
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in tiny_data.loader(utterances):
            (theirs, frames), (ours, _) = module.posteriors(batch), other.posteriors(batch)
            pair = F.log_softmax(ours[:, : int(frames)], -1), F.log_softmax(theirs[:, : int(frames)], -1)
            total += float(F.kl_div(*pair, reduction="sum", log_target=True))
            count += int(frames)
    found = loss_of(other, reference_of(module, tiny_data, utterances))
    assert found == pytest.approx(total / count, rel=1e-4)  # padding changes the last digits
