"""Arguments of a node: typed, named in messages, and none left over."""

from __future__ import annotations

import pytest

from qat.models.speechbrain_arguments import (
    Arguments,
    check_input,
    check_leaky_relu,
    encoder_layers,
    layer_names,
    layers_of,
    linear_sizes,
)
from qat.models.speechbrain_yaml import Node
from qat.system.errors import UserError


def node(name: str = "CRDNN", **arguments: object) -> Node:
    return Node("new", name, (), arguments, "enc", 7)


def test_values_come_out_by_type_and_defaults_where_they_are_absent() -> None:
    act = node("LeakyReLU")
    arguments = Arguments("h.yaml", node(a=3, b=(1, 2, 3), c=1, d=True, e=act, f=[1]))
    assert arguments.integer("a") == 3 and arguments.integers("b", 2) == [1, 2]
    assert (
        arguments.number("c") == 1.0 and arguments.truth("d") and arguments.node_of("e", "LeakyReLU") is act
    )
    arguments.only((1,), "f", "absent")
    assert arguments.integer("g", 5) == 5 and arguments.node_of("h", "LeakyReLU", default=None) is None
    arguments.finish()


def refused(expected: str, **given: object) -> None:
    (kind, value), *more = given.items()
    arguments = Arguments("h.yaml", node(a=value))
    with pytest.raises(UserError, match=r"h.yaml, line 7: enc.a: " + expected):
        getattr(arguments, kind)("a", *(item for _, item in more))


def test_a_wrong_type_is_one_line_that_names_file_line_key_and_value() -> None:
    refused("'3', must be a whole number of at least 0", integer="3")
    refused("True, must be a whole number", integer=True)
    refused("-1, must be a whole number", integer=-1)
    refused(r"\(1,\), must be a list of 2", integers=(1,), count=2)
    refused(r"\[1, 0\], must be whole numbers of at least 1", integers=[1, 0], count=2)
    refused("'x', must be a number", number="x")
    refused("False, must be a number", number=False)
    refused("1, must be True or False", truth=1)
    refused("'gru', must be LSTM", node_of="gru", classes="LSTM")
    refused("GRU, must be LSTM", node_of=node("GRU"), classes="LSTM")


def test_a_missing_and_a_superfluous_argument_are_named() -> None:
    with pytest.raises(UserError, match="enc.b: must be given to CRDNN"):
        Arguments("h.yaml", node(a=1)).integer("b")
    with pytest.raises(UserError, match="enc.a: must be left out"):
        Arguments("h.yaml", node(a=1)).finish()


def test_only_one_value_of_what_our_modules_do_not_vary() -> None:
    Arguments("h.yaml", node()).only(True, "a")
    with pytest.raises(UserError, match="enc.a: False, must be True"):
        Arguments("h.yaml", node(a=False)).only(True, "a")
    with pytest.raises(UserError, match="enc.a: 1, must be True"):
        Arguments("h.yaml", node(a=1)).only(True, "a")
    with pytest.raises(UserError, match="enc.a: False, must be True"):  # SpeechBrain's default is another
        Arguments("h.yaml", node()).only(True, "a", default=False)


def test_layers_of_a_container_are_its_list_or_its_named_ones() -> None:
    container = Node("new", "Sequential", (1, 2), {"input_shape": None, "last": 3}, "e", 1)
    assert layers_of(container) == [1, 2, 3] and layer_names(container) == ["0", "1", "last"]


def test_a_linear_layer_fits_what_it_reads() -> None:
    assert linear_sizes("h.yaml", node("Linear", n_neurons=4, input_size=3), 3) == 4
    assert linear_sizes("h.yaml", node("Linear", n_neurons=4, input_shape=[None, None, 3]), 3) == 4
    with pytest.raises(UserError, match="input_size: 3, must be 5"):
        linear_sizes("h.yaml", node("Linear", n_neurons=4, input_size=3), 5)
    with pytest.raises(UserError, match="max_norm: must be left out"):
        linear_sizes("h.yaml", node("Linear", n_neurons=4, max_norm=1.0), 5)
    check_input(Arguments("h.yaml", node()), 9)


def test_a_leaky_relu_has_the_usual_slope() -> None:
    check_leaky_relu("h.yaml", node("LeakyReLU", inplace=True))
    with pytest.raises(UserError, match=r"negative_slope: 0.2, must be 0.01"):
        check_leaky_relu("h.yaml", node("LeakyReLU", negative_slope=0.2))


def test_layers_of_an_encoder_are_of_the_wanted_classes_in_order() -> None:
    fbank, crdnn, softmax = node("Fbank"), node("CRDNN"), node("Softmax")
    encoder = Node("new", "Sequential", (), {"a": fbank, "b": crdnn, "c": softmax}, "encoder", 3)
    assert encoder_layers("h.yaml", encoder, ("Fbank",), ("CRDNN", "VGG")) == [fbank, crdnn]
    with pytest.raises(UserError, match="layers Fbank, CRDNN, must be CRDNN, Fbank, in this order"):
        encoder_layers("h.yaml", encoder, ("CRDNN",), ("Fbank",))
    with pytest.raises(UserError, match="modules.encoder: CRDNN, must be a LengthsCapableSequential"):
        encoder_layers("h.yaml", crdnn, ("CRDNN",))
