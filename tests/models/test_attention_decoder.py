"""The decoder's step is SpeechBrain's, whatever is projected first."""

from typing import Any

import torch
from speechbrain.nnet.RNN import AttentionalRNNDecoder
from torch import Tensor

from qat.models.attention_decoder import DecoderState, Projected, first_state, step


def decoder(layers: int = 1) -> AttentionalRNNDecoder:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": 7, "attn_dim": 5, "num_layers": layers, "enc_dim": 6}
    return AttentionalRNNDecoder("gru", "location", **sizes, input_size=4, channels=3, kernel_size=2).eval()


def projected(model: AttentionalRNNDecoder, states: Tensor, frames: Tensor) -> Projected:
    valid = torch.arange(states.shape[1]) < frames[:, None]
    return Projected(model.attn.mlp_enc(states), model.attn.mlp_out(states), valid)


def all_steps(model: AttentionalRNNDecoder, inputs: Tensor, reads: Projected) -> tuple[Tensor, Tensor]:
    state, outputs, attention = first_state(model, reads), [], []
    for place in range(inputs.shape[1]):
        output, state = step(model, inputs[:, place], state, reads)
        outputs.append(output)
        attention.append(state.attention)
    return torch.stack(outputs, 1), torch.stack(attention, 1)


@torch.no_grad()
def test_steps_equal_speechbrain_for_one_layer_and_for_two() -> None:
    for layers in (1, 2):
        model = decoder(layers)
        states, inputs = torch.randn(3, 9, 6), torch.randn(3, 5, 4)
        frames = torch.tensor([9, 6, 3])
        theirs, attention = model(inputs, states, frames / 9)
        mine, weights = all_steps(model, inputs, projected(model, states, frames))
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(weights, attention, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_padding_after_an_utterance_changes_nothing_of_it() -> None:
    model = decoder()
    states, inputs = torch.randn(1, 6, 6), torch.randn(1, 4, 4)
    alone, _ = all_steps(model, inputs, projected(model, states, torch.tensor([6])))
    padded = torch.cat([states, torch.randn(1, 3, 6)], 1)
    beside, weights = all_steps(model, inputs, projected(model, padded, torch.tensor([6])))
    torch.testing.assert_close(beside, alone, atol=1e-6, rtol=1e-5)
    assert weights[:, :, 6:].eq(0).all()


@torch.no_grad()
def test_many_hypotheses_read_one_utterance_without_copies_of_it() -> None:
    model = decoder()
    states, inputs = torch.randn(1, 6, 6), torch.randn(4, 4)
    one = projected(model, states, torch.tensor([6]))
    many = Projected(one.keys.expand(4, -1, -1), one.values.expand(4, -1, -1), one.valid.expand(4, -1))
    before = DecoderState(torch.randn(4, 1, 7), torch.randn(4, 5), torch.rand(4, 6))
    for mine, theirs in zip(step(model, inputs, before, one), step(model, inputs, before, many), strict=True):
        pairs = (
            [(mine, theirs)]
            if isinstance(mine, Tensor)
            else zip(vars(mine).values(), vars(theirs).values(), strict=True)
        )
        for first, second in pairs:
            torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)
