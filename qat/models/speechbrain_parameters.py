"""The parameter files of a SpeechBrain folder: which module each belongs to, read without running code from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qat.models.checkpoint import refuse_damaged
from qat.models.speechbrain_arguments import Arguments
from qat.models.speechbrain_yaml import Node
from qat.system.errors import UserError, first_line

FILE_ENDING = ".ckpt"
CONSTANT = "fbank."  # features are made by rule; what their modules hold lies in no folder


class ParameterFiles:
    """Files of the modules that a `Pretrainer` lists.

    Args:
        folder: they lie in.
        file: of the hyper-parameters, for messages.
        pretrainer: what these say.

    Raises:
        UserError: the list is missing or names something that is no module.
    """

    def __init__(self, folder: Path, file: Path, pretrainer: Any) -> None:
        if not isinstance(pretrainer, Node) or pretrainer.name != "Pretrainer":
            raise UserError(
                f"{file}: pretrainer: must be !new:speechbrain.utils.parameter_transfer.Pretrainer"
            )
        arguments = Arguments(file, pretrainer)
        loadables, paths = arguments.take("loadables"), arguments.take("paths", None) or {}
        arguments.ignore("collect_in")
        arguments.finish()
        if not isinstance(loadables, dict) or not isinstance(paths, dict):
            arguments.refuse(
                "loadables", "must be a list of names and modules, and paths one of names and files"
            )
        self.folder, self.file = folder, file
        self.names: dict[int, str] = {}  # of a file, by the module in it
        self.places: dict[int, tuple[str, str]] = {}  # file and prefix of a module's keys
        for name, node in loadables.items():
            if not isinstance(node, Node):
                arguments.refuse(f"loadables.{name}", f"{node!r}, must be a reference to a module")
            file_name = self.file_name(name, paths.get(name))
            self.places[id(node)] = (file_name, "")
            for index, inner in enumerate(node.layers):
                self.places[id(inner)] = (file_name, f"{index}.")

    def file_name(self, name: str, path: object) -> str:
        """Name in this folder of the file of a loadable; a path that the file gives may lead elsewhere."""
        given = Path(str(path)).name if path else ""
        return given if given and (self.folder / given).is_file() else name + FILE_ENDING

    def path_of(self, node: Node) -> Path:
        """The file of a module that has one of its own, or shares it with others.

        Raises:
            UserError: the pretrainer does not list it, or the file is missing.
        """
        if id(node) not in self.places:
            raise UserError(
                f"{self.file}: pretrainer.loadables: must list {node.key}; its parameters are nowhere"
            )
        path = self.folder / self.places[id(node)][0]
        if not path.is_file():
            raise UserError(
                f"{path}: must be there, with the parameters of {node.key}; download the whole folder"
            )
        return path

    def read(self, node: Node, prefix: str, weights: Weights, inner: str = "") -> None:
        """Add parameters of a module, or of what is called `inner` in it, to `weights`, under our `prefix`."""
        path = self.path_of(node)
        name, theirs = self.places[id(node)]
        theirs += inner
        if name not in weights.files:
            weights.files[name] = read_tensors(path)
        weights.places[prefix] = (name, theirs)
        for key in [key for key in weights.files[name] if key.startswith(theirs)]:
            weights.state[prefix + key.removeprefix(theirs)] = weights.files[name].pop(key)

    def check_all_taken(self, weights: Weights) -> None:
        """Refuse a file that holds more than its modules.

        Raises:
            UserError: naming the first key.
        """
        for name, left in weights.files.items():
            for key in left:
                raise UserError(
                    f"{self.folder / name}: {key}, must be of a module that {self.file.name} lists"
                )


@dataclass
class Weights:
    """Parameters under our names.

    Attributes:
        state: of our module.
        places: our prefix -> file and prefix in it, for messages.
        files: what of each file is not yet in `state`.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    files: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def origin(self, key: str) -> str:
        """File and key of the folder that one of our keys stands for."""
        prefixes = [prefix for prefix in self.places if key.startswith(prefix)]
        if not prefixes:
            return key
        prefix = max(prefixes, key=len)
        name, theirs = self.places[prefix]
        return f"{name}: {theirs}{key.removeprefix(prefix)}"


@dataclass(frozen=True)
class SpeechBrainFolder:
    """What a pretrained folder of SpeechBrain holds.

    Attributes:
        layout: `attention` (`EncoderDecoderASR`) or `wav2vec2` (`EncoderASR`).
        path: of the folder.
        options: of our module: sizes, and what goes with the model.
        search: fields of `qat.decoding.options.SearchSettings`; empty for greedy CTC.
        weights: parameters under the names of our module.
        tokenizer: SentencePiece model; None where labels are characters.
        labels: characters; None where there is a tokenizer.
    """

    layout: str
    path: Path
    options: dict[str, Any]
    search: dict[str, Any]
    weights: Weights
    tokenizer: bytes | None = None
    labels: list[str] | None = None

    def fill_(self, module: nn.Module, without: tuple[str, ...] = ()) -> None:
        """Copy the parameters into a float model that is built of `options`; all of them.

        Args:
            module: ours.
            without: beginnings of names that a user does not want, such as the language model's.

        Raises:
            UserError: one is missing, superfluous, of another shape or not finite; it is named as in the folder.
        """
        state = {key: value for key, value in self.weights.state.items() if not key.startswith(without)}
        fill_(module, replace(self.weights, state=state), self.path)


def read_file(path: Path) -> Any:
    """Contents of a file that `torch.save` wrote: tensors and builtins, on the CPU.

    Raises:
        UserError: it cannot be read, is damaged, or would run code.
    """
    refuse_damaged(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail in any way
        raise UserError(f"{path}: must be a readable file of parameters ({first_line(error, 120)})") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict.

    Raises:
        UserError: see `read_file`, or it holds something else.
    """
    contents = read_file(path)
    if not isinstance(contents, Mapping):
        raise UserError(f"{path}: holds a {type(contents).__name__}, must hold parameters by name")
    for key, value in contents.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: {key}: {type(value).__name__}, must be a tensor")
    return dict(contents)


def fill_(module: nn.Module, weights: Weights, folder: Path) -> None:
    """Copy a folder's parameters into a float model that is built of the folder's sizes, all of them.

    Raises:
        UserError: one is missing, superfluous, of another shape or not finite; it is named as in the folder.
    """
    expected = module.state_dict()
    weights.state.update({key: value for key, value in expected.items() if key.startswith(CONSTANT)})
    for key in expected:
        if key not in weights.state:
            raise UserError(f"{folder}/{weights.origin(key)}: must be there; the file lacks it")
    for key, value in weights.state.items():
        if key not in expected:
            raise UserError(
                f"{folder}/{weights.origin(key)}: must not be there; hyperparams.yaml asks for none"
            )
        if isinstance(expected[key], Tensor) and not key.endswith("_extra_state"):
            if value.shape != expected[key].shape:
                raise UserError(
                    f"{folder}/{weights.origin(key)}: {tuple(value.shape)}, must be "
                    f"{tuple(expected[key].shape)}, the sizes in hyperparams.yaml"
                )
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise UserError(f"{folder}/{weights.origin(key)}: must be finite numbers")
    module.load_state_dict(weights.state)
