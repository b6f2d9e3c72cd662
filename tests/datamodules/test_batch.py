from pathlib import Path

import torch

from datamodules.batch import collate
from datamodules.utterance import Utterance


def pair(name, count):
    return Utterance(name, Path(f"{name}.wav"), f"text of {name}", count / 16_000), torch.full((count,), 0.5)


def test_collate_pads_with_zeros_and_keeps_order():
    batch = collate([pair("a", 3), pair("b", 5), pair("c", 1)])
    assert batch.signal.shape == (3, 5) and batch.signal.dtype == torch.float32
    assert batch.lengths.tolist() == [3, 5, 1] and batch.lengths.dtype == torch.int64
    assert batch.ids == ["a", "b", "c"] and batch.texts[1] == "text of b" and len(batch) == 3
    for row, length in zip(batch.signal, batch.lengths, strict=True):
        assert (row[:length] == 0.5).all() and (row[length:] == 0).all()


def test_batch_of_one_has_no_padding():
    assert collate([pair("a", 4)]).signal.shape == (1, 4)


def test_to_moves_the_signal_and_keeps_lengths_on_the_cpu_and_texts():
    batch = collate([pair("a", 3)]).to("meta")
    assert batch.signal.device.type == "meta" and batch.lengths.device.type == "cpu"
    assert batch.texts == ["text of a"]
