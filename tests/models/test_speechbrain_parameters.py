"""Parameter files: where each module's lie, nothing run from them, all of them used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qat.models.speechbrain_parameters import (
    ParameterFiles,
    SpeechBrainFolder,
    Weights,
    fill_,
    read_file,
    read_tensors,
)
from qat.models.speechbrain_yaml import Node
from qat.system.errors import UserError

FIRST, SECOND = Node("new", "Linear", key="first"), Node("new", "Linear", key="second")
BOTH = Node("new", "ModuleList", (FIRST, SECOND), key="both")


def files_of(folder: Path, **arguments: Any) -> ParameterFiles:
    pretrainer = Node("new", "Pretrainer", (), {"loadables": {"asr": BOTH}, **arguments}, "pretrainer", 9)
    return ParameterFiles(folder, folder / "hyperparams.yaml", pretrainer)


def save(folder: Path, name: str = "asr.ckpt") -> nn.ModuleList:
    modules = nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 1)])
    torch.save(modules.state_dict(), folder / name)
    return modules


def read_both(folder: Path, **arguments: Any) -> Weights:
    files, weights = files_of(folder, **arguments), Weights()
    files.read(FIRST, "in.", weights)
    files.read(SECOND, "out.", weights)
    files.check_all_taken(weights)
    return weights


def test_a_list_of_modules_shares_a_file(tmp_path: Path) -> None:
    modules, weights = save(tmp_path), read_both(tmp_path)
    assert set(weights.state) == {"in.weight", "in.bias", "out.weight", "out.bias"}
    assert torch.equal(weights.state["out.weight"], modules[1].weight)
    assert weights.origin("out.weight") == "asr.ckpt: 1.weight" and weights.origin("other") == "other"


def test_a_path_in_the_file_names_a_file_of_this_folder_or_none(tmp_path: Path) -> None:
    save(tmp_path, "recogniser.ckpt")
    assert read_both(tmp_path, paths={"asr": "speechbrain/far/recogniser.ckpt"}).state
    os.rename(tmp_path / "recogniser.ckpt", tmp_path / "asr.ckpt")
    assert read_both(tmp_path, paths={"asr": "speechbrain/far/recogniser.ckpt"}).state
    assert read_both(tmp_path, paths={"asr": "../../../etc/passwd"}).state


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"asr.ckpt: must be there, with the parameters of first"):
        read_both(tmp_path)
    with pytest.raises(UserError, match="pretrainer.loadables: must list third"):
        files_of(tmp_path).path_of(Node("new", "Linear", key="third"))
    with pytest.raises(UserError, match="pretrainer: must be !new:speechbrain.utils"):
        ParameterFiles(tmp_path, tmp_path / "h.yaml", None)
    with pytest.raises(UserError, match="loadables.asr: 3, must be a reference"):
        files_of(tmp_path, loadables={"asr": 3})


def test_a_module_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.ones(1), "2.weight": torch.ones(1)}, tmp_path / "asr.ckpt")
    with pytest.raises(UserError, match="asr.ckpt: 2.weight, must be of a module"):
        read_both(tmp_path)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_nothing_in_a_parameter_file_is_run(tmp_path: Path) -> None:
    torch.save({"0.weight": Trap(tmp_path / "witness")}, tmp_path / "asr.ckpt")
    with pytest.raises(UserError, match="asr.ckpt: must be a readable file of parameters") as caught:
        read_file(tmp_path / "asr.ckpt")
    assert not (tmp_path / "witness").exists() and "\n" not in str(caught.value)


def test_a_parameter_file_holds_tensors_by_name(tmp_path: Path) -> None:
    for contents, problem in (([1], "holds a list"), ({"a": 1}, "a: int, must be a tensor")):
        torch.save(contents, tmp_path / "x.ckpt")
        with pytest.raises(UserError, match=problem):
            read_tensors(tmp_path / "x.ckpt")
    (tmp_path / "x.ckpt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="must be a readable file"):
        read_tensors(tmp_path / "x.ckpt")


def weights_of(**state: torch.Tensor) -> Weights:
    return Weights(state, {"": ("asr.ckpt", "0.")})


def test_filling_is_strict_and_names_the_folders_key(tmp_path: Path) -> None:
    module, good = nn.Linear(2, 1), {"weight": torch.ones(1, 2), "bias": torch.ones(1)}
    fill_(module, weights_of(**good), tmp_path)
    assert torch.equal(module.weight, good["weight"])
    cases = {
        "asr.ckpt: 0.bias: must be there": {"weight": good["weight"]},
        "asr.ckpt: 0.more: must not be there": {**good, "more": torch.ones(1)},
        r"asr.ckpt: 0.weight: \(2, 2\), must be \(1, 2\)": {**good, "weight": torch.ones(2, 2)},
        "asr.ckpt: 0.bias: must be finite": {**good, "bias": torch.tensor([torch.nan])},
    }
    for problem, state in cases.items():
        with pytest.raises(UserError, match=problem):
            fill_(module, weights_of(**state), tmp_path)


def test_a_part_that_is_not_wanted_is_left_out(tmp_path: Path) -> None:
    weights = weights_of(weight=torch.ones(1, 2), bias=torch.ones(1))
    weights.state["lm.weight"] = torch.ones(3)
    folder = SpeechBrainFolder("attention", tmp_path, {}, {}, weights)
    folder.fill_(nn.Linear(2, 1), without=("lm.",))
    with pytest.raises(UserError, match="must not be there"):
        folder.fill_(nn.Linear(2, 1))
