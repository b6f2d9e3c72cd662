"""What layers are called with, and in which order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qat.layers.recording import execution_order, record_inputs
from qat.layers.swap import swap_
from qat.recipe import Recipe


def test_layers_that_read_the_same_tensor_come_together_in_order_of_their_calls() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.one(x) + self.two(x))

    model = Branches()
    swap_(model, Recipe(preset="x"))
    assert execution_order(model, lambda: model(torch.randn(2, 4))) == [["one", "two"], ["last"]]


def test_a_layer_called_twice_stands_where_it_was_called_first_and_keeps_each_input() -> None:
    inner = nn.Linear(4, 4)
    model = nn.Sequential(inner, nn.Linear(4, 4), inner)
    swap_(model, Recipe(preset="x"))
    x = torch.randn(2, 4)
    assert execution_order(model, lambda: model(x)) == [["0"], ["1"]]
    with torch.no_grad(), record_inputs(model, ["0"], stop=False) as recorded:
        model(x)
    first, second = recorded.of("0")
    assert first is x and not torch.equal(second, x)


def test_a_cell_is_recorded_with_its_state_however_it_is_given() -> None:
    model = nn.ModuleDict({"cell": nn.GRUCell(4, 3), "head": nn.Linear(4, 2)})
    swap_(model, Recipe(preset="x"))
    x, hidden = torch.randn(2, 4), torch.randn(2, 3)

    def run() -> None:
        for state in (None, hidden):
            model["cell"](x, hx=state)
            model["head"](x)

    assert execution_order(model, run) == [["cell", "head"]]
    with record_inputs(model, ["cell"], stop=False) as recorded:
        run()
    assert [state for _, state in recorded.of("cell")] == [None, hidden]


def test_recording_leaves_the_forward_once_all_inputs_are_there() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    reached: list[int] = []
    model[2].register_forward_pre_hook(lambda layer, inputs: reached.append(1))
    x = torch.randn(2, 4)
    with torch.no_grad(), record_inputs(model, ["0", "1"]) as recorded:
        model(x)
    assert [name for name, _ in recorded.calls] == ["0", "1"] and not reached
    assert recorded.calls[0][1] is x
    model(x)
    assert reached  # the hooks are gone
