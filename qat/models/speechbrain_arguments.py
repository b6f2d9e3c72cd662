"""What a file of SpeechBrain says of one class, taken argument by argument: typed, and none left over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from qat.models.speechbrain_yaml import Node
from qat.system.errors import UserError

REQUIRED: Any = object()


class Arguments:
    """Takes a node's arguments.

    Args:
        file: for messages.
        node: what the file says.
    """

    def __init__(self, file: object, node: Node) -> None:
        self.file, self.node, self.left = file, node, dict(node.arguments)

    def refuse(self, name: str, problem: str) -> NoReturn:
        """Raise an error that names file, line, key and argument."""
        raise UserError(f"{self.file}, line {self.node.line}: {self.node.key}.{name}: {problem}")

    def take(self, name: str, default: Any = REQUIRED) -> Any:
        """The value of an argument, whatever it is.

        Raises:
            UserError: it is missing and has no default.
        """
        if name not in self.left and default is REQUIRED:
            self.refuse(name, f"must be given to {self.node.name}; add it")
        return self.left.pop(name, default)

    def integer(self, name: str, default: Any = REQUIRED, least: int = 0) -> int:
        """A whole number of at least `least`."""
        value = self.take(name, default)
        if type(value) is not int or value < least:
            self.refuse(name, f"{value!r}, must be a whole number of at least {least}")
        return value

    def integers(self, name: str, count: int, default: Any = REQUIRED) -> list[int]:
        """At least `count` whole numbers above zero; the first `count` of them."""
        value = self.take(name, default)
        if not isinstance(value, list | tuple) or len(value) < count:
            self.refuse(name, f"{value!r}, must be a list of {count} whole numbers")
        if any(type(item) is not int or item < 1 for item in value):
            self.refuse(name, f"{value!r}, must be whole numbers of at least 1")
        return list(value[:count])

    def number(self, name: str, default: Any = REQUIRED) -> float:
        """A number."""
        value = self.take(name, default)
        if type(value) not in (int, float):
            self.refuse(name, f"{value!r}, must be a number")
        return float(value)

    def truth(self, name: str, default: Any = REQUIRED) -> bool:
        """True or False."""
        value = self.take(name, default)
        if type(value) is not bool:
            self.refuse(name, f"{value!r}, must be True or False")
        return value

    def only(self, allowed: Any, *names: str, default: Any = None) -> None:
        """Refuse any value but one: our modules know no other. Lists and tuples are the same.

        Args:
            allowed: the value.
            names: of arguments.
            default: SpeechBrain's; None where it is `allowed`.
        """
        for name in names:
            value = self.take(name, allowed if default is None else default)
            if same(value) != same(allowed) or isinstance(value, bool) != isinstance(allowed, bool):
                self.refuse(name, f"{shown(value)}, must be {shown(allowed)}; our modules know no other")

    def node_of(self, name: str, *classes: str, default: Any = REQUIRED) -> Any:
        """A node of one of `classes`, or the default."""
        value = self.take(name, default)
        if value is default:
            return value
        if not isinstance(value, Node) or value.name not in classes:
            self.refuse(name, f"{shown(value)}, must be {' or '.join(classes)}")
        return value

    def ignore(self, *names: str) -> None:
        """Drop arguments that change nothing of a model that is read and run."""
        for name in names:
            self.left.pop(name, None)

    def finish(self) -> None:
        """Refuse what nobody took."""
        for name in self.left:
            self.refuse(name, "must be left out; our modules do not know it")


def same(value: Any) -> Any:
    """A value to compare with: a list as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def shown(value: Any) -> str:
    """A value in a message."""
    return value.name if isinstance(value, Node) else repr(value)


def layers_of(node: Node) -> list[Any]:
    """The layers of a container, in order."""
    return [*node.layers, *(value for name, value in node.arguments.items() if name != "input_shape")]


def encoder_layers(file: object, node: Any, *wanted: tuple[str, ...]) -> list[Node]:
    """Layers of `modules.encoder`, which must be of the wanted classes, in order; a softmax after them is dropped."""
    if not isinstance(node, Node) or node.name != "Sequential":
        raise UserError(f"{file}: modules.encoder: {shown(node)}, must be a LengthsCapableSequential")
    layers = layers_of(node)
    if layers and isinstance(layers[-1], Node) and layers[-1].name in ("Softmax", "LogSoftmax"):
        layers = layers[:-1]
    names = [shown(item) for item in layers]
    if len(layers) != len(wanted) or any(
        name not in classes for name, classes in zip(names, wanted, strict=True)
    ):
        order = ", ".join(" or ".join(classes) for classes in wanted)
        raise UserError(
            f"{file}, line {node.line}: {node.key}: layers {', '.join(names)}, must be {order}, in this order"
        )
    return layers


def layer_names(node: Node) -> list[str]:
    """Names that SpeechBrain gives the layers of a container, in order."""
    named = [name for name in node.arguments if name != "input_shape"]
    return [*(str(index) for index in range(len(node.layers))), *named]


def check_leaky_relu(file: object, node: Node) -> None:
    """Refuse a `LeakyReLU` of another slope than 0.01."""
    arguments = Arguments(file, node)
    arguments.only(0.01, "negative_slope")
    arguments.ignore("inplace")
    arguments.finish()


def linear_sizes(file: object, node: Node, input_size: int) -> int:
    """Outputs of a `Linear` that reads `input_size` values."""
    arguments = Arguments(file, node)
    arguments.only(True, "bias")
    arguments.only(False, "combine_dims")
    if arguments.take("max_norm", None) is not None:
        arguments.refuse("max_norm", "must be left out")
    check_input(arguments, input_size)
    neurons = arguments.integer("n_neurons", least=1)
    arguments.finish()
    return neurons


def check_input(arguments: Arguments, size: int) -> None:
    """Refuse an `input_size` or `input_shape` that does not fit what comes before."""
    given = arguments.take("input_size", None)
    shape = arguments.take("input_shape", None)
    if given is None and isinstance(shape, Sequence) and shape:
        given = shape[-1]
    if given is not None and given != size:
        arguments.refuse("input_size", f"{given}, must be {size}, the size of what it reads")
