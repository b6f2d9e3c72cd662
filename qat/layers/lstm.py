"""Quantized LSTM for ONNX Runtime's `DynamicQuantizeLSTM`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from qat.layers.base import QuantLayer, device_of, emulates_kernel, new_activation_quantizer
from qat.layers.lstm_kernel import run_layer
from qat.layers.lstm_weights import (
    float_weights,
    fused_lstm,
    gates_first,
    names_of_layer,
    on_dynamic_levels,
    packed_rows,
    quantize_rows,
    utterances_of,
)
from qat.layers.products import Product
from qat.layers.quantizer import Unquantized
from qat.layers.sampling import sample
from qat.layers.weight import WeightQuantizer

Hidden = tuple[Tensor, Tensor]


class QuantLSTM(QuantLayer, nn.LSTM):
    """`nn.LSTM` on quantized weights, per channel over the 4H gate rows.

    With activation bits the input of each stacked layer and the hidden state are quantized dynamically to unsigned
    8 bits per utterance, as the integer kernel does. Evaluation on a CPU emulates that kernel exactly, frame by frame,
    and carries no gradient. Training, and evaluation on a GPU, run PyTorch's fused kernel on fake-quantized weights and
    inputs: its hidden state is not quantized, which would need a Python loop over frames.
    Below 8 activation bits a static input quantizer stands in front. Other targets than ONNX Runtime have no such
    kernel: activations stay float there.
    """

    float_class = nn.LSTM
    time_axis = -2

    def add_quantizers(self) -> None:
        """One quantizer per weight matrix; a static one for the input below 8 bits."""
        recipe, self.input_quantizer = self.layer_recipe, Unquantized()
        if recipe.activation_bits and recipe.activation_bits < 8:
            time_axis = -2 if self.batch_first else -3
            self.input_quantizer = new_activation_quantizer(recipe, time_axis, device_of(self))
        self.weight_quantizers = nn.ModuleDict()
        if recipe.weight_bits:
            for name in self.matrix_names():
                self.weight_quantizers[name] = WeightQuantizer(self.get_parameter(name), recipe, casts=False)

    def matrix_names(self) -> list[str]:
        """Names of the weight matrices, in the order of `_flat_weights`."""
        return [name for names in self._all_weights for name in names if name.startswith("weight")]

    def weights(self) -> Iterator[tuple[str, Tensor, WeightQuantizer]]:
        """Yield (name, weight, its quantizer) for each matrix."""
        table: Any = self.weight_quantizers
        for name, quantizer in table.items():
            yield name, self.get_parameter(name), quantizer

    @property
    def is_enabled(self) -> bool:
        """Whether the quantizers are on."""
        return any(child.is_enabled for child in [*self.weight_quantizers.values(), self.input_quantizer])

    def forward(  # type: ignore[override]
        self, input: Tensor | PackedSequence, hx: Hidden | None = None
    ) -> tuple[Tensor | PackedSequence, Hidden]:
        """As `nn.LSTM`: a tensor (batched or not) or a packed sequence, and an optional first state."""
        if isinstance(input, PackedSequence):
            input = input._replace(data=self.quantized_input(input.data))
        else:
            input = self.quantized_input(input)
        if not self.is_enabled:
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        batch_axis = 0 if self.batch_first else 1
        if input.dim() == 2:
            state = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
            output, (h, c) = self._forward_padded(input.unsqueeze(batch_axis), state)
            return output.squeeze(batch_axis), (h.squeeze(1), c.squeeze(1))
        return self._forward_padded(input, hx)

    def quantized_input(self, x: Tensor) -> Tensor:
        """`x` after the static quantizer, of its own dtype under autocast too: not every cuDNN takes bfloat16."""
        with torch.autocast(x.device.type, enabled=False):
            return self.input_quantizer(x)

    def _forward_packed(self, packed: PackedSequence, hx: Hidden | None) -> tuple[PackedSequence, Hidden]:
        data, sizes, order, inverse = packed
        state = self._first_state(data, int(sizes[0]), hx, order)
        if not emulates_kernel(self, data):
            output, state = self._train_layers(data, sizes, state)
        else:
            plain = PackedSequence(data, sizes)
            padded, lengths = pad_packed_sequence(plain, batch_first=True)
            padded, state = self._emulate_layers(padded, lengths.tolist(), state)
            output = pack_padded_sequence(padded, lengths, batch_first=True).data
        state = self.permute_hidden(state, inverse)
        return PackedSequence(output, sizes, order, inverse), state

    def _forward_padded(self, x: Tensor, hx: Hidden | None) -> tuple[Tensor, Hidden]:
        x = x if self.batch_first else x.transpose(0, 1)
        state = self._first_state(x, len(x), hx, None)
        if not emulates_kernel(self, x):
            output, state = self._train_layers(x, None, state)
        else:
            output, state = self._emulate_layers(x, [x.shape[1]] * len(x), state)
        return output if self.batch_first else output.transpose(0, 1), state

    @property
    def dynamic(self) -> bool:
        """Whether inputs and states are quantized dynamically, as the integer kernel does."""
        recipe = self.layer_recipe
        return bool(recipe.activation_bits and self.weight_quantizers) and recipe.target == "onnxruntime"

    @property
    def can_emulate(self) -> bool:
        """Whether its kernel is an integer one; what it emulates carries no gradient."""
        return self.dynamic

    def _first_state(self, x: Tensor, rows: int, hx: Hidden | None, order: Tensor | None) -> Hidden:
        if hx is not None:
            return self.permute_hidden(hx, order)
        zeros = x.new_zeros(self.num_layers * self.directions, rows, self.hidden_size)
        return zeros, zeros

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    def _train_layers(self, x: Tensor, sizes: Tensor | None, state: Hidden) -> tuple[Tensor, Hidden]:
        """Stacked layers through the fused kernel; `x` is `(B, T, F)`, or packed data `(N, F)` with `sizes`."""
        hidden, cell = [], []
        groups = None if sizes is None else packed_rows(sizes, x.device)
        for layer in range(self.num_layers):
            x = self.layer_input(x, groups, state[0].shape[1], layer)
            span = slice(layer * self.directions, (layer + 1) * self.directions)
            first = (state[0][span].contiguous(), state[1][span].contiguous())
            rest = (self.bias, 1, 0.0, self.training, self.bidirectional)
            weights = self.layer_weights(layer)
            if sizes is None:
                x, h, c = fused_lstm(x, first, weights, *rest, True)
            else:
                x, h, c = fused_lstm(x, sizes, first, weights, *rest)
            hidden.append(h)
            cell.append(c)
        return x, (torch.cat(hidden), torch.cat(cell))

    def layer_input(self, x: Tensor, groups: Tensor | None, rows: int, layer: int) -> Tensor:
        """What a stacked layer reads in training: `x` after dropout, on its rows' levels (see `quantize_rows`)."""
        if layer and self.dropout:
            x = nn.functional.dropout(x, self.dropout, self.training)
        return quantize_rows(x, groups, rows) if self.dynamic and self.is_enabled else x

    def layer_weights(self, layer: int) -> list[Tensor]:
        """Weights of one layer as `_VF.lstm` takes them, matrices fake-quantized."""
        names = names_of_layer(self, layer)
        table = self.weight_quantizers
        return [
            table[name](getattr(self, name)) if name in table else getattr(self, name)
            for direction in names
            for name in direction
        ]

    def _emulate_layers(self, x: Tensor, lengths: list[int], state: Hidden) -> tuple[Tensor, Hidden]:
        """Stacked layers through the emulated integer kernel; `x` is `(B, T, F)`, rows by falling length."""
        dtype = x.dtype
        x, hidden, cell = x.float(), [], []
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            for layer in range(self.num_layers):
                span = slice(layer * self.directions, (layer + 1) * self.directions)
                x, h, c = run_layer(
                    x, lengths, *self.level_weights(layer), state[0][span].float(), state[1][span].float()
                )
                hidden.append(h)
                cell.append(c)
        return x.to(dtype), (torch.cat(hidden).to(dtype), torch.cat(cell).to(dtype))

    def level_weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Levels and scales of both matrices, and the bias, of one layer; gates in the order i, f, o, g."""
        stacks: list[list[Tensor]] = [[], [], [], [], []]
        table: Any = self.weight_quantizers
        for names in names_of_layer(self, layer):
            for place, name in enumerate(names[:2]):
                levels, scale, _ = table[name].levels(getattr(self, name))
                stacks[2 * place].append(gates_first(levels))
                stacks[2 * place + 1].append(gates_first(scale))
            if self.bias:
                stacks[4].append(
                    gates_first((getattr(self, names[2]) + getattr(self, names[3])).detach().float())
                )
        ih, scale_ih, hh, scale_hh = (torch.stack(stack) for stack in stacks[:4])
        return ih, scale_ih, hh, scale_hh, torch.stack(stacks[4]) if self.bias else None

    def products(self) -> list[Product]:
        """One for each stacked layer, on `[x_t, h_(t-1)]`; a group for each direction."""
        if not self.weight_quantizers:
            return []
        return [
            Product(
                weights=[names[:2] for names in names_of_layer(self, layer)],
                biases=[names[2] for names in names_of_layer(self, layer)] if self.bias else [],
                groups=self.directions,
                suffix=f".l{layer}",
                own_input=True,
            )
            for layer in range(self.num_layers)
        ]

    def product_inputs(self, index: int, x: Any, quantized: bool, generator: torch.Generator) -> Tensor:
        """Inputs and states of stacked layer `index` side by side, `(D, N, I + H)`."""
        rows = [self.states_beside(index, item, quantized) for item in utterances_of(self, x)]
        return torch.cat([sample(item, generator) for item in rows], dim=1)

    def states_beside(self, index: int, x: Tensor, quantized: bool) -> Tensor:
        """`[x_t, h_(t-1)]` of stacked layer `index` on one utterance `(T, F)`: `(D, T, I + H)`.

        The states are those of the float weights (rounded as the kernel rounds states), also after a quantized prefix:
        the rounding that is chosen here is to bring the quantized layer close to them.
        """
        x = x.detach().float()[None]
        if quantized:
            x = self.input_quantizer(x)
        for layer in range(index):
            x = self.stacked_layer(layer, x, quantized)
        if quantized and self.dynamic:
            x = on_dynamic_levels(x, x.min(), x.max())
        states = (
            self.stacked_layer(index, x, False)[0].reshape(x.shape[1], self.directions, -1).transpose(0, 1)
        )
        before = torch.zeros_like(states)
        before[0, 1:] = states[0, :-1]
        if self.bidirectional:
            before[1, :-1] = states[1, 1:]
        if quantized and self.dynamic:
            before = on_dynamic_levels(before, before.amin(2, keepdim=True), before.amax(2, keepdim=True))
        return torch.cat([x.expand(self.directions, -1, -1), before], dim=2)

    def stacked_layer(self, index: int, x: Tensor, quantized: bool) -> Tensor:
        """Outputs `(1, T, D H)` of one stacked layer on `(1, T, F)`, in float or as it computes in evaluation."""
        zeros = x.new_zeros(self.directions, 1, self.hidden_size)
        if quantized and emulates_kernel(self, x):
            return run_layer(x, [x.shape[1]], *self.level_weights(index), zeros, zeros)[0]
        if quantized:
            x = self.layer_input(x, None, 1, index)
        weights = self.layer_weights(index) if quantized else float_weights(self, index)
        rest = (self.bias, 1, 0.0, False, self.bidirectional, True)
        return fused_lstm(x, (zeros, zeros), weights, *rest)[0]
