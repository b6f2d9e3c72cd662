"""Every number on the command line has limits: a bad one is refused before anything is built."""

from __future__ import annotations

import inspect
import types
import typing
from dataclasses import fields
from typing import Any

import pytest
from lightning.pytorch import Trainer

from datamodules.base import SpeechDataModule
from datamodules.manifest import ManifestDataModule
from qat.cli.limits import check_trainer
from qat.evaluation.options import EvaluationOptions
from qat.models.attention_options import AttentionOptions
from qat.models.crdnn import CRDNNOptions
from qat.models.speechbrain_wav2vec2 import SpeechBrainWav2Vec2Options
from qat.models.wav2vec2 import Wav2Vec2Options
from qat.recipe import Recipe
from qat.system.errors import UserError

NAN, INFINITE = float("nan"), float("inf")
MODELS = (CRDNNOptions, AttentionOptions, Wav2Vec2Options, SpeechBrainWav2Vec2Options)
ABOVE = {"dropout", "lm_dropout", "head_dropout", "final_lr_ratio", "distillation_weight", "splice_share"}
ABOVE |= {"ctc_weight", "label_smoothing", "guide", "room_share", "noise_share", "percentile", "quant_noise"}


def kinds(annotation: Any) -> set[Any]:
    """The types that an annotation allows."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {kind for part in typing.get_args(annotation) for kind in kinds(part)}
    return {annotation}


def numbers(owner: Any) -> dict[str, set[Any]]:
    """Name and number types of each numeric option."""
    hints = typing.get_type_hints(owner.__init__)
    found = {name: kinds(hint) & {int, float} for name, hint in hints.items()}
    return {name: number for name, number in found.items() if number}


def bad_values(name: str, number: set[Any]) -> list[float]:
    """What no option of such a type may be: very negative, not a number, infinite; of shares, above 1 as well."""
    values = [-5, *([NAN, INFINITE] if float in number else [])]
    if name in ("max_train_utterances", "max_test_utterances", "num_buckets"):
        values.append(0)
    return [*values, *([200.0] if name in ABOVE else [])]


def cases(*owners: Any) -> list[Any]:
    return [
        pytest.param(owner, name, value, id=f"{owner.__name__}-{name}={value}")
        for owner in owners
        for name, number in numbers(owner).items()
        for value in bad_values(name, number)
        if (name, value) != ("max_batch_s", INFINITE)  # one batch
    ]


@pytest.mark.parametrize(("options", "name", "value"), cases(*MODELS, EvaluationOptions, Recipe))
def test_every_numeric_option_has_limits(options: Any, name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"{name}: {value}.*must be") as caught:
        options(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("_", "name", "value"), cases(SpeechDataModule))
def test_every_number_of_the_data_has_limits(_: Any, name: str, value: float, tiny_manifests: Any) -> None:
    paths = {key: str(tiny_manifests[key]) for key in ("train", "dev")}
    with pytest.raises(UserError, match=rf"{name} is {value}.*must be"):
        ManifestDataModule(**paths, test=str(tiny_manifests["test_a"]), **{name: value})


@pytest.mark.parametrize("low", [NAN, INFINITE, 50.0])
def test_the_range_of_noise_is_two_finite_numbers(low: float, tiny_manifests: Any) -> None:
    paths = {key: str(tiny_manifests[key]) for key in ("train", "dev")}
    with pytest.raises(UserError, match="noise_snr_db is .*must be two"):
        ManifestDataModule(**paths, test=str(tiny_manifests["test_a"]), noise_snr_db=(low, 40.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rnn_layers": 0}, "rnn_layers: 0, must be an integer from 1 to 1000"),
        ({"dnn_blocks": 0}, "dnn_blocks: 0, must be an integer from 1 to 1000"),
        ({"cnn_channels": []}, "cnn_channels: .*must be a list of integers of at least 1"),
        ({"cnn_pooling": [2]}, "cnn_pooling: .*must have one entry for each of cnn_channels"),
        ({"cnn_pooling": [0, 2]}, "cnn_pooling: .*must be a list of integers of at least 1"),
        ({"n_mels": 8, "cnn_pooling": [4, 4]}, "cnn_pooling: .*must have a product of at most n_mels"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CRDNNOptions(**options)


UNCHECKED = {"deterministic"}  # true, false or a word


def test_every_number_of_the_trainer_is_checked() -> None:
    hints = {name: item.annotation for name, item in inspect.signature(Trainer.__init__).parameters.items()}
    numeric = {name for name, hint in hints.items() if kinds(hint) & {int, float}} - UNCHECKED
    assert {"accumulate_grad_batches", "max_epochs", "devices", "gradient_clip_val"} <= numeric
    for name in numeric:
        with pytest.raises(UserError, match=rf"--trainer.{name} -5: must be "):
            check_trainer({name: -5}, seed=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", "bf16-true"), ("precision", "64-true"), ("precision", 64),
        ("accumulate_grad_batches", 0), ("max_epochs", -2), ("max_epochs", -1), ("devices", 0), ("devices", "0"),
        ("devices", []), ("devices", [-1]), ("devices", "two"), ("gradient_clip_val", NAN),
        ("gradient_clip_algorithm", "vale"), ("limit_train_batches", 1.5), ("val_check_interval", 0),
        ("check_val_every_n_epoch", 0), ("num_nodes", 0),
    ],
)  # fmt: skip
def test_what_the_trainer_cannot_do_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"--trainer.{name} .*: must be "):
        check_trainer({name: value}, seed=1)


def test_what_the_trainer_can_do_is_taken() -> None:
    check_trainer(
        {name: item.default for name, item in inspect.signature(Trainer.__init__).parameters.items()}, 1
    )
    for name, values in {
        "precision": ["32-true", 32, "bf16-mixed", 16, "bf16"], "devices": [1, -1, "2", "0,1", "auto", [0]],
        "limit_train_batches": [0, 3, 0.5, 1.0], "val_check_interval": [5, 0.25, "00:01:00:00"],
        "max_epochs": [0, 3, None], "gradient_clip_val": [0, 5.0, None],
    }.items():  # fmt: skip
        for value in values:
            check_trainer({name: value}, seed=True)
    check_trainer({"max_epochs": -1, "max_steps": 10}, seed=False)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take_is_refused(seed: int) -> None:
    with pytest.raises(UserError, match=f"--seed_everything {seed}: must be a whole number from 0 to"):
        check_trainer({}, seed)


def test_the_tables_above_know_every_dataclass_field() -> None:
    assert (
        {"threads", "warmup", "repeats", "seed", "worst", "window_s"}
        == set(numbers(EvaluationOptions))
        <= {item.name for item in fields(EvaluationOptions)}
    )
