"""Variants of a measured model have the quantizers that its constructor gives, with ranges and switched on."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_sizes import COMPILED, RECIPES, Size, batch_of, sizes, variant_of
from qat.layers.swap import quantizers
from qat.models.crdnn import CRDNNModule
from qat.models.wav2vec2 import Wav2Vec2Module

CPU = torch.device("cpu")
CLASSES = {"crdnn": CRDNNModule, "wav2vec2": Wav2Vec2Module}


@pytest.mark.parametrize("size", sizes(tiny=True)[:2], ids=lambda size: size.name)
@pytest.mark.parametrize("variant", [name for name, recipe in RECIPES.items() if recipe])
def test_a_variant_is_what_its_constructor_builds(size: Size, variant: str) -> None:
    made = variant_of(size.build(), variant, CPU)
    built = CLASSES[size.kind](recipe=RECIPES[variant], **size.arguments)
    assert str(made.swap_report) == str(built.swap_report)
    assert [name for name, _ in quantizers(made)] == [name for name, _ in quantizers(built)]
    assert all(quantizer.is_enabled for _, quantizer in quantizers(made)) and made.training
    assert list(made.state_dict()) == list(built.state_dict())


def test_a_float_variant_is_a_copy_without_quantizers() -> None:
    size = sizes(tiny=True)[1]
    module = size.build()
    made = variant_of(module, "float", CPU)
    assert not list(quantizers(made)) and made is not module


@pytest.mark.parametrize("variant", COMPILED)
def test_a_compiled_variant_asks_for_compilation(variant: str) -> None:
    assert variant_of(sizes(tiny=True)[0].build(), variant, CPU).options.compile


def test_tiny_models_stand_for_the_same_names() -> None:
    assert [size.name for size in sizes()] == [size.name for size in sizes(tiny=True)]
    assert [len(size.batches) for size in sizes()] == [len(size.batches) for size in sizes(tiny=True)]


def test_another_number_of_parameters_is_refused() -> None:
    tiny = sizes(tiny=True)[1]
    with pytest.raises(RuntimeError, match="M parameters, must have about 108"):
        Size(tiny.name, tiny.kind, tiny.batches, tiny.arguments, 108.0).build()


def test_a_batch_has_labels_for_its_length() -> None:
    batch = batch_of(3, 2.0, CPU)
    assert batch.signal.shape == (3, 32_000) and batch.lengths.tolist() == [32_000] * 3
    assert {len(text) for text in batch.texts} <= {27, 28}
