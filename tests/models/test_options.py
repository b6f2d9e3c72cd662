"""Option groups: flat, the same in the class and the checkpoint, and checked."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from qat.models.crdnn import CRDNNOptions
from qat.models.options import TrainingOptions
from qat.models.wav2vec2 import Wav2Vec2Options
from qat.system.errors import UserError
from tests.conftest import build


def test_shares_outside_their_range_are_refused() -> None:
    for name in ("distillation_weight", "splice_share"):
        with pytest.raises(UserError, match=rf"{name}: 2\.0, must be from 0 to 1"):
            build("crdnn", teacher="a.ckpt", **{name: 2.0})
    with pytest.raises(UserError, match=r"splice_share: 0\.5, must be 0 without a teacher"):
        build("crdnn", splice_share=0.5)
    with pytest.raises(UserError, match="splice_share: None, must be from 0 to 1"):
        TrainingOptions(teacher="a.ckpt", **{"splice_share": None})


def test_a_checkpoint_holds_the_options_flat_beside_the_recipe(kind: str) -> None:
    options = CRDNNOptions if kind == "crdnn" else Wav2Vec2Options
    names = {item.name for item in fields(options)} - {"pretrained"}  # spent once the weights are in
    module = build(kind, learning_rate=0.5)
    stored = dict(module.hparams)
    assert set(stored) == {"recipe", *names}
    assert stored == {**asdict(module.options), "recipe": module.recipe.to_dict()} or kind == "wav2vec2"
    assert stored["learning_rate"] == module.options.learning_rate == 0.5


def test_a_model_rebuilds_from_its_hyper_parameters(kind: str) -> None:
    module = build(kind, warmup_steps=7, **({"dropout": 0.3} if kind == "crdnn" else {"word_delimiter": "|"}))
    assert dict(type(module)(**module.hparams).hparams) == dict(module.hparams)
