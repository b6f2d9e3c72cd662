"""Quantized LSTM for ONNX Runtime's `DynamicQuantizeLSTM`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from qat.layer_recipe import LayerRecipe
from qat.layers.base import QuantLayer, device_of
from qat.layers.integer import weight_levels
from qat.layers.lstm_kernel import run_layer
from qat.layers.quantizer import Quantizer
from qat.numerics.affine import dynamic_range, fake_quantize

Hidden = tuple[Tensor, Tensor]


class QuantLSTM(QuantLayer, nn.LSTM):
    """`nn.LSTM` on quantized weights, per channel over the 4H gate rows.

    With activation bits the input of each stacked layer and the hidden state are quantized dynamically to unsigned
    8 bits per utterance, as the integer kernel does. Evaluation emulates that kernel exactly, step by step. Training
    runs PyTorch's fused kernel on fake-quantized weights and inputs: its hidden state is not quantized, which
    would need a Python loop over frames; evaluation-mode outputs carry no gradient.
    Below 8 activation bits a static input quantizer stands in front.
    """

    float_class = nn.LSTM
    time_axis = -2

    def add_quantizers(self, recipe: LayerRecipe) -> None:
        """One quantizer a weight matrix; a static one for the input below 8 bits."""
        self.input_quantizer: nn.Module = nn.Identity()
        self.weight_quantizers = nn.ModuleDict()
        if recipe.activation_bits and recipe.activation_bits < 8:
            time_axis = -2 if self.batch_first else -3
            self.input_quantizer = Quantizer.for_activation(recipe, time_axis, device_of(self))
        if recipe.weight_bits:
            for name in self.matrix_names():
                self.weight_quantizers[name] = Quantizer.for_weight(getattr(self, name), recipe)

    def matrix_names(self) -> list[str]:
        """Names of the weight matrices, in the order of `_flat_weights`."""
        return [name for names in self._all_weights for name in names if name.startswith("weight")]

    def weights(self) -> Iterator[tuple[str, Tensor, Quantizer]]:
        """Yield (name, weight, its quantizer) for each matrix."""
        for name, quantizer in self.weight_quantizers.items():
            assert isinstance(quantizer, Quantizer)
            yield name, getattr(self, name), quantizer

    @property
    def is_enabled(self) -> bool:
        """Whether the quantizers are on."""
        children = [*self.weight_quantizers.values(), self.input_quantizer]
        return any(isinstance(child, Quantizer) and child.is_enabled for child in children)

    def forward(  # type: ignore[override]
        self, input: Tensor | PackedSequence, hx: Hidden | None = None
    ) -> tuple[Tensor | PackedSequence, Hidden]:
        """As `nn.LSTM`: a tensor (batched or not) or a packed sequence, and an optional first state."""
        if isinstance(self.input_quantizer, Quantizer):
            if isinstance(input, PackedSequence):
                input = input._replace(data=self.input_quantizer(input.data))
            else:
                input = self.input_quantizer(input)
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

    def _forward_packed(self, packed: PackedSequence, hx: Hidden | None) -> tuple[PackedSequence, Hidden]:
        data, sizes, order, inverse = packed
        state = self._first_state(data, int(sizes[0]), hx, order)
        if self.training or not self.dynamic:
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
        if self.training or not self.dynamic:
            output, state = self._train_layers(x, None, state)
        else:
            output, state = self._emulate_layers(x, [x.shape[1]] * len(x), state)
        return output if self.batch_first else output.transpose(0, 1), state

    @property
    def dynamic(self) -> bool:
        """Whether inputs and states are quantized dynamically, as the integer kernel does."""
        return bool(self.layer_recipe.activation_bits) and bool(self.weight_quantizers)

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
                x, h, c = torch._VF.lstm(x, first, weights, *rest, True)  # type: ignore[attr-defined]
            else:
                x, h, c = torch._VF.lstm(x, sizes, first, weights, *rest)  # type: ignore[attr-defined]
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
                    x, lengths, *self._levels(layer), state[0][span].float(), state[1][span].float()
                )
                hidden.append(h)
                cell.append(c)
        return x.to(dtype), (torch.cat(hidden).to(dtype), torch.cat(cell).to(dtype))

    def _levels(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Levels and scales of both matrices, and the bias, of one layer; gates in the order i, f, o, g."""
        stacks: list[list[Tensor]] = [[], [], [], [], []]
        for names in names_of_layer(self, layer):
            for place, name in enumerate(names[:2]):
                levels, scale = weight_levels(getattr(self, name), self.weight_quantizers[name])  # type: ignore[arg-type]
                stacks[2 * place].append(gates_first(levels))
                stacks[2 * place + 1].append(gates_first(scale))
            if self.bias:
                stacks[4].append(
                    gates_first((getattr(self, names[2]) + getattr(self, names[3])).detach().float())
                )
        ih, scale_ih, hh, scale_hh = (torch.stack(stack) for stack in stacks[:4])
        return ih, scale_ih, hh, scale_hh, torch.stack(stacks[4]) if self.bias else None


def names_of_layer(rnn: nn.LSTM, layer: int) -> list[list[str]]:
    """Names of one stacked layer's parameters, a list for each direction: both matrices, then the biases."""
    directions = 2 if rnn.bidirectional else 1
    return rnn._all_weights[layer * directions : (layer + 1) * directions]


def float_weights(rnn: nn.LSTM, layer: int) -> list[Tensor]:
    """Weights of one stacked layer as `_VF.lstm` takes them, not quantized."""
    return [getattr(rnn, name) for names in names_of_layer(rnn, layer) for name in names]


def gates_first(rows: Tensor) -> Tensor:
    """Reorder gate rows `(4H, ...)` from PyTorch's i, f, g, o to i, f, o, g: one sigmoid serves three gates."""
    i, f, g, o = rows.chunk(4)
    return torch.cat((i, f, o, g))


def packed_rows(sizes: Tensor, device: torch.device) -> Tensor:
    """Row of the batch that each packed frame belongs to, int64 `(N,)`, from `batch_sizes (T,)`."""
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return (torch.arange(len(starts)) - starts).to(device, non_blocking=True)


def quantize_rows(x: Tensor, groups: Tensor | None, rows: int) -> Tensor:
    """Dynamic u8 fake quantization per utterance, with the gradient passed straight through.

    Args:
        x: `(B, T, F)`, or packed `(N, F)`.
        groups: utterance of each packed frame `(N,)`; None for `(B, T, F)`.
        rows: utterances `B`.
    """
    with torch.no_grad():
        if groups is None:
            low, high = (end.view(-1, 1, 1) for end in torch.aminmax(x.detach().flatten(1).float(), dim=1))
        else:
            ends = torch.aminmax(x.detach().float(), dim=1)
            zeros = ends[0].new_zeros(rows)
            low = zeros.scatter_reduce(0, groups, ends[0], "amin")[groups, None]
            high = zeros.scatter_reduce(0, groups, ends[1], "amax")[groups, None]
        scale, zero_point = dynamic_range(low, high)
    return fake_quantize(x, scale, zero_point, 0, 255, clips=False)
