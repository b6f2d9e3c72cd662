"""Stacked quantized recurrent layers over sequences, frame by frame: what GRUs and stepwise LSTMs share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from qat.layers.cell import Arithmetic, QuantRecurrent, Sums
from qat.layers.lstm_kernel import reverse_frames
from qat.layers.lstm_weights import utterances_of
from qat.layers.quantizer import Unquantized
from qat.layers.sampling import sample

States = tuple[Tensor, ...]  # each (L D, N, H), or (N, H) of one layer's direction


class QuantStack(QuantRecurrent):
    """A stack of cells on sequences. Layers above the first read hidden states, so theirs is the fixed range too.

    Training runs the same frames in a loop, with gradients: slower than a fused kernel, which could not round states.
    """

    num_layers: int
    hidden_size: int
    batch_first: bool
    bidirectional: bool
    dropout: float

    def new_input_quantizer(self) -> nn.Module:
        """Time comes before features, or before the batch."""
        self.time_axis = -2 if self.batch_first else -3
        return super().new_input_quantizer()

    def suffixes(self) -> list[list[str]]:
        """`_l0`, `_l0_reverse`, `_l1`, ..."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [[f"_l{layer}{end}" for end in ends] for layer in range(self.num_layers)]

    def update(self, inputs: Tensor, recurrent: Tensor, states: States) -> States:
        """Next states of one cell, the hidden one first."""
        raise NotImplementedError

    def opened(self, hx: Any) -> States:
        """The first states as a tuple."""
        raise NotImplementedError

    def closed(self, states: States) -> Any:
        """The last states as PyTorch's layer gives them."""
        raise NotImplementedError

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As PyTorch's layer: a tensor (batched or not) or a packed sequence, and optional first states."""
        if not self.is_enabled:
            return super().forward(self.watched(input), hx)
        if isinstance(input, PackedSequence):
            return self.forward_packed(input, hx)
        single = input.dim() == 2
        axis = 0 if self.batch_first else 1
        x = input.unsqueeze(axis) if single else input
        x = x if self.batch_first else x.transpose(0, 1)
        given = None if hx is None else self.opened(hx)
        if single and given is not None:
            given = tuple(item.unsqueeze(1) for item in given)
        output, states = self.run(x, given, None)
        output = output if self.batch_first else output.transpose(0, 1)
        if single:
            output, states = output.squeeze(axis), tuple(item.squeeze(1) for item in states)
        return output, self.closed(states)

    def watched(self, x: Any) -> Any:
        """The input, past the quantizer that may observe it."""
        if isinstance(x, PackedSequence):
            return x._replace(data=self.input_quantizer(x.data))
        return self.input_quantizer(x)

    def forward_packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        """A packed sequence; states are those after each row's own last frame."""
        data, sizes, order, inverse = packed
        x, lengths = pad_packed_sequence(PackedSequence(data, sizes), batch_first=True)
        given = None if hx is None else self.opened(hx)
        if given is not None and order is not None:
            given = tuple(item.index_select(1, order) for item in given)
        output, states = self.run(x, given, lengths)
        if inverse is not None:
            states = tuple(item.index_select(1, inverse) for item in states)
        data = pack_padded_sequence(output, lengths, batch_first=True).data
        return PackedSequence(data, sizes, order, inverse), self.closed(states)

    def run(self, x: Tensor, given: States | None, lengths: Tensor | None) -> tuple[Tensor, States]:
        """All layers on `(N, T, I)`, with `lengths (N,)` on the CPU valid: outputs `(N, T, D H)` and last states."""
        dtype, state_dtype = x.dtype, x.dtype if given is None else given[0].dtype
        states = self.first_states(x, given)
        with self.arithmetic(x) as mode, self.step_key.frames():
            ends = []
            for layer in range(self.num_layers):
                x, last = self.run_layer(layer, x, self.of_layer(states, layer), lengths, mode)
                ends.append(last)
        last = tuple(torch.cat(parts).to(state_dtype) for parts in zip(*ends, strict=True))
        return x.to(dtype), last

    def first_states(self, x: Tensor, given: States | None) -> States:
        """Float32 states `(L D, N, H)`; zeros where none are given."""
        if given is not None:
            return tuple(item.float() for item in given)
        directions = len(self.suffixes()[0])
        zeros = x.new_zeros(self.num_layers * directions, len(x), self.hidden_size, dtype=torch.float32)
        return (zeros,) * self.state_count

    state_count = 1  # hidden; an LSTM has a cell state too

    def of_layer(self, states: States, layer: int) -> States:
        """Those of one stacked layer, `(D, N, H)` each."""
        directions = len(self.suffixes()[0])
        return tuple(item[layer * directions : (layer + 1) * directions] for item in states)

    def run_layer(
        self, layer: int, x: Tensor, states: States, lengths: Tensor | None, mode: Arithmetic
    ) -> tuple[Tensor, States]:
        """One stacked layer on `(N, T, F)` and states `(D, N, H)`: outputs `(N, T, D H)` and last states."""
        reads = self.hidden_quantizer if layer else self.input_quantizer
        if mode != "levels":
            x, reads = self.layer_input(layer, x, mode), Unquantized()
        outputs, ends = [], []
        for direction, suffix in enumerate(self.suffixes()[layer]):
            inputs = turned(self.sums(f"ih{suffix}", reads, mode)(x), lengths, direction)
            recur = self.sums(f"hh{suffix}", self.hidden_quantizer, mode)
            own = tuple(item[direction] for item in states)
            output, last = self.run_frames(inputs, recur, own, lengths)
            outputs.append(turned(output, lengths, direction))
            ends.append(last)
        return torch.cat(outputs, -1), tuple(torch.stack(parts) for parts in zip(*ends, strict=True))

    def layer_input(self, layer: int, x: Tensor, mode: Arithmetic) -> Tensor:
        """What a stacked layer multiplies in training: rounded, then after dropout."""
        if mode == "fake":
            self.step_key.frame += 1
            x = (self.hidden_quantizer if layer else self.input_quantizer)(x)
        if layer and self.dropout and mode == "fake":
            x = nn.functional.dropout(x, self.dropout, self.training)
        return x

    def run_frames(
        self, inputs: Tensor, recur: Sums, states: States, lengths: Tensor | None
    ) -> tuple[Tensor, States]:
        """The recurrence over sums `(N, T, G H)` from states `(N, H)`: outputs `(N, T, H)` and last states."""
        outputs, key, ends = [], self.step_key, None if lengths is None else lengths.to(inputs.device)
        for frame, sums in enumerate(inputs.unbind(1)):
            key.frame += 1
            new = self.update(sums, recur(states[0]), states)
            if ends is not None:
                runs = (frame < ends)[:, None]
                new = tuple(torch.where(runs, one, two) for one, two in zip(new, states, strict=True))
            states = new
            outputs.append(states[0])
        return torch.stack(outputs, 1), states

    def product_inputs(self, index: int, x: Any, quantized: bool, generator: torch.Generator) -> Tensor:
        """Inputs or states, or both side by side, of a stacked layer: `(D, N, I)`, `(D, N, H)` or `(D, N, I + H)`."""
        layer, side = divmod(index, len(self.sides))
        layer_like: Any = self
        given = None if x[1] is None else self.opened(x[1])
        rows = []
        for row, item in enumerate(utterances_of(layer_like, x[0])):
            own = given and tuple(
                state.detach()[:, row : row + 1] if state.ndim == 3 else state.detach()[:, None]
                for state in given
            )
            rows.append(sample(self.side_rows(layer, self.sides[side], item, own, quantized), generator))
        return torch.cat(rows, dim=1)

    def side_rows(
        self, layer: int, side: tuple[str, ...], x: Tensor, given: States | None, quantized: bool
    ) -> Tensor:
        """What a stacked layer multiplies on one utterance `(T, F)`: `(D, T, ...)`.

        The states are those of the float weights (rounded as the layer rounds states), also after a quantized prefix:
        the rounding that is chosen here is to bring the quantized layer close to them.
        """
        x = x.detach().float()[None]
        states = self.first_states(x, given)
        mode: Arithmetic = "float"
        if quantized:
            with self.arithmetic(x) as mode:
                pass
        for below in range(layer):
            x = self.run_layer(below, x, self.of_layer(states, below), None, mode)[0]
        if quantized:
            x = (self.hidden_quantizer if layer else self.input_quantizer)(x)
        first = self.of_layer(states, layer)
        before = shifted(self.run_layer(layer, x, first, None, "float")[0], first[0])
        if quantized:
            before = self.hidden_quantizer(before)
        parts = {"ih": x.expand(len(before), -1, -1), "hh": before}
        return torch.cat([parts[kind] for kind in side], dim=2)


def turned(x: Tensor, lengths: Tensor | None, direction: int) -> Tensor:
    """`(N, T, F)` with each row reversed within its own length, for the backward direction."""
    if not direction:
        return x
    return x.flip(1) if lengths is None else reverse_frames(x, lengths.tolist())


def shifted(outputs: Tensor, first: Tensor) -> Tensor:
    """The states before each frame `(D, T, H)`, from those after it `(1, T, D H)` and the first `(D, 1, H)`."""
    after = outputs[0].unflatten(1, (len(first), -1)).transpose(0, 1)
    before = torch.cat([first, after[:, :-1]], dim=1)
    if len(first) == 2:
        before[1] = torch.cat([after[1, 1:], first[1]])
    return before
