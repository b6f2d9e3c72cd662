"""Checkpoint files: what is refused, in one line."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qat.models.checkpoint import SafeCheckpointIO, first_not_finite, read_checkpoint, write_checkpoint
from qat.models.loading import load_module, save_module
from qat.system.errors import UserError
from tests.conftest import ROOT, build


def test_corrupt_and_foreign_checkpoints_are_one_clear_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"broken\.ckpt: not a readable checkpoint"):
        read_checkpoint(broken)
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of speech-qat"):
        read_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.ckpt")


def test_starting_from_another_model_is_refused(tmp_path: Path) -> None:
    save_module(build("wav2vec2"), tmp_path / "w.ckpt")
    with pytest.raises(UserError, match="Wav2Vec2Module.*CRDNNModule"):
        build("crdnn", init_from=str(tmp_path / "w.ckpt"))
    save_module(build("crdnn", rnn_neurons=10), tmp_path / "c.ckpt")
    with pytest.raises(UserError, match=r"c\.ckpt: init_from does not fit"):
        build("crdnn", init_from=str(tmp_path / "c.ckpt"))


def test_equal_checkpoints_are_equal_bytes_whatever_their_names(tmp_path: Path) -> None:
    for name in ("one.ckpt", "another.ckpt"):
        write_checkpoint({"weight": torch.ones(3)}, tmp_path / name)
    assert (tmp_path / "one.ckpt").read_bytes() == (tmp_path / "another.ckpt").read_bytes()


def test_weights_of_a_diverged_run_are_refused(tmp_path: Path) -> None:
    module = build("crdnn")
    assert first_not_finite(module) is None
    module.head.bias.data[0] = float("inf")
    assert first_not_finite(module) == "head.bias"
    save_module(module, tmp_path / "c.ckpt")
    for start in (
        lambda: build("crdnn", init_from=str(tmp_path / "c.ckpt")),
        lambda: load_module(tmp_path / "c.ckpt"),
    ):
        with pytest.raises(
            UserError, match=r"c\.ckpt: weight head\.bias is NaN or infinite, and must be finite"
        ):
            start()


WRITE = """
import sys, torch
from pathlib import Path
from qat.cli.ending import run_command
from qat.models.checkpoint import SafeCheckpointIO
run_command(lambda args: SafeCheckpointIO().save_checkpoint({"w": torch.zeros(200_000)}, args[0]), sys.argv[1:])
"""


def test_a_checkpoint_that_finds_no_room_is_one_line_and_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"good")
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "last.ckpt: cannot be written, the disk is full (File too large)" in done.stderr
    assert path.read_bytes() == b"good"


def test_a_flipped_bit_of_a_weight_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    weight = torch.full((1000,), 0.125)
    write_checkpoint({"model": "m", "hyper_parameters": {}, "state_dict": {"weight": weight}}, path)
    assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], weight)
    data = bytearray(path.read_bytes())
    data[data.find(weight.numpy().tobytes()) + 400] ^= 64
    path.write_bytes(bytes(data))
    for read in (read_checkpoint, SafeCheckpointIO().load_checkpoint):
        with pytest.raises(UserError, match="must be whole, and is damaged at"):
            read(path)
