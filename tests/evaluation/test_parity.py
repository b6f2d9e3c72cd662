"""The comparison of file and module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from datamodules.batch import Batch, collate
from datamodules.mini_corpus import MiniDataModule
from datamodules.utterance import Utterance
from qat.decoding.recogniser import Emission
from qat.evaluation.parity import Parity, check_parity, merge_ranks, word_error_rate
from qat.models.loading import load_module
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.recipe import Recipe
from qat.runtime.export import export_onnx, trace
from qat.runtime.fused import ExportedGroupNorm
from qat.runtime.layers import replace_layers_
from qat.runtime.packing import name_nodes_
from qat.runtime.self_attention import fused_attention
from qat.runtime.session import Session, session_options
from qat.system.errors import UserError
from tests.conftest import noise
from tests.runtime.conftest import Exported, calibrate_

ROOT = Path(__file__).parents[2]


def batches() -> list[Batch]:
    signals = [noise(1, seconds, seed=index)[0] for index, seconds in enumerate((0.7, 1.1))]
    items = [(Utterance(str(i), Path("x"), "one two", 1.0), signal) for i, signal in enumerate(signals)]
    return [collate([item]) for item in items]


def test_parity_of_a_file_with_its_module(crdnn: Exported) -> None:
    parity = check_parity(crdnn.module, Session(crdnn.integer.path), batches())
    assert set(parity) == {"max_abs_logit", "argmax_disagreement", "wer_fake", "wer_integer"}
    # float parts differ in the last bit, which moves a level or two at the most: most often nothing at all
    assert 0 <= parity["max_abs_logit"] < 0.02
    assert parity["argmax_disagreement"] <= 0.05  # random weights: the best label is a close call


def test_parity_notices_another_model(crdnn: Exported) -> None:
    assert crdnn.float is not None
    with torch.no_grad():
        for parameter in (twin := copy.deepcopy(crdnn.module)).head.parameters():
            parameter.add_(1.0)
    parity = check_parity(twin, Session(crdnn.float.path), batches())
    assert parity["max_abs_logit"] > 0.5


def test_padded_batches_are_refused(crdnn: Exported) -> None:
    together = collate([(Utterance(str(i), Path("x"), "a", 1.0), torch.zeros(9_000)) for i in range(2)])
    with pytest.raises(UserError, match="batches of one"):
        check_parity(crdnn.module, Session(crdnn.integer.path), [together])


def test_word_error_rate_is_corpus_level() -> None:
    assert word_error_rate(["a b c", "d"], ["a b", "x"]) == 50.0
    assert word_error_rate([""], ["a"]) == 0.0


def engine(function: Callable[..., Tensor], *example: Tensor) -> Callable[..., Tensor]:
    """`function` as ONNX Runtime computes it; the first two axes of its arguments are free."""

    class Called(nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return function(*inputs)

    inputs = {f"x{index}": x for index, x in enumerate(example)}
    model = trace(Called(), inputs, ["y"])
    name_nodes_(model, [])
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
    )

    def run(*given: Tensor) -> Tensor:
        feed = {name: x.contiguous().numpy() for name, x in zip(inputs, given, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def test_normalised_waveform_is_the_files_to_the_last_bit(wav2vec2: Exported) -> None:
    """What comes first must not differ: a last bit there is one in every later value."""
    module = wav2vec2.module
    assert isinstance(module, Wav2Vec2Module) and module.options.do_normalize
    normalise = engine(
        lambda *inputs: module.features(*inputs)[0], torch.zeros(2, 32_000), torch.tensor([32_000, 16_000])
    )
    for samples in (4_000, 33_333, 160_000):
        signal, lengths = noise(2, samples / 16_000, seed=samples), torch.tensor([samples, samples // 2])
        signal = 0.1 * torch.cumsum(signal[:, :samples], 1).sin() + 0.01  # neither white nor centred
        assert torch.equal(normalise(signal, lengths), module.features(signal, lengths)[0])


@torch.no_grad()
def test_only_last_bits_of_float_kernels_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mini Wav2Vec2 with ONNX Runtime's GELU, normalisations and attention has the logits of its file.

    A real model, since the tiny one has them without.
    """
    path = ROOT / "checkpoints/mini_wav2vec2/model.ckpt"
    recipe = Recipe(preset="test", reduce_range=True)
    module = Wav2Vec2Module(**{**load_module(path).hparams, "recipe": recipe, "init_from": str(path)}).eval()
    data = MiniDataModule()
    data.setup("test")
    spoken = list(data.loader(data.utterances("dev")[:12]))
    calibrate_(module, lambda: [module(batch.signal, batch.lengths) for batch in spoken])
    file = Session(export_onnx(module, tmp_path / "integer.onnx", "integer").path)

    def equal_frames() -> float:
        """Share of frames whose logits are the file's to the last bit."""
        same, frames = 0, 0
        for batch in spoken:
            ours = module(batch.signal, batch.lengths)[0][0]
            theirs = torch.from_numpy(file.logits(batch.signal[0].numpy()))
            same, frames = same + int((ours == theirs).all(-1).sum()), frames + len(theirs)
        return same / frames

    before = equal_frames()
    exported = copy.deepcopy(module)
    replace_layers_(exported, "integer")
    first: Any = exported.hf.wav2vec2.feature_extractor.conv_layers[0]
    kernel, stride = first.conv.kernel_size[0], first.conv.stride[0]

    def front(signal: Tensor, lengths: Tensor) -> Tensor:
        frames = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return ExportedGroupNorm.of(first.layer_norm)(first.conv(signal.unsqueeze(1)), frames)

    begin = engine(front, torch.zeros(2, 32_000), torch.tensor([32_000, 16_000]))
    waveform: list[Tensor] = []
    features = module.features

    def remember(signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        waveform[:] = features(signal, lengths)
        return waveform[0], waveform[1]

    monkeypatch.setattr(module, "features", remember)
    norm: Any = module.hf.wav2vec2.feature_extractor.conv_layers[0].layer_norm
    norm.forward = lambda *_: begin(*waveform)
    gelu = engine(F.gelu, torch.zeros(2, 9))
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):
            plain = copy.deepcopy(layer)
            layer.forward = engine(plain.forward, torch.zeros(2, 9, *layer.normalized_shape))  # type: ignore[method-assign]
        elif "GELU" in type(layer).__name__:
            layer.forward = lambda x: gelu(x.reshape(1, -1)).reshape(x.shape)
    heads = module.hf.config.num_attention_heads
    size = module.hf.config.hidden_size // heads

    def by_time(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        found = fused_attention(module, query, key, value, bias[:, None, None, :], size**-0.5)
        return found[0].unflatten(2, (heads, size)).transpose(1, 2)

    attention = engine(by_time, *(torch.zeros(2, 9, heads, size) for _ in range(3)), torch.zeros(2, 9))

    def in_engine(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, **_: Any) -> Tensor:
        return attention(*(x.transpose(1, 2) for x in (query, key, value)), attn_mask[:, 0, 0, :])

    monkeypatch.setattr(F, "scaled_dot_product_attention", in_engine)
    assert before < 0.9
    assert equal_frames() > 0.99  # a fused LayerNorm adds in an order of its own


class Tokens:
    """A recogniser that finds the same logits, and tokens of its own."""

    def __init__(self, *tokens: list[int]) -> None:
        self.tokens = iter(tokens)

    def emit(self, signal: NDArray[Any]) -> Emission:
        return Emission(np.zeros((2, 3), np.float32))

    def text_of(self, emission: Emission) -> str:
        emission.tokens = next(self.tokens)
        return "one two"

    def transcribe(self, signal: NDArray[Any]) -> str:
        return self.text_of(self.emit(signal))


def test_tokens_are_compared_where_they_are_searched() -> None:
    first, second = (Parity(), Parity())
    for parity, theirs in ((first, [1, 2]), (second, [1, 3])):
        parity.add(Tokens([1, 2]), Tokens(theirs), batches()[0])
    assert first.to_dict()["differing_utterances"] == 0.0 and second.to_dict()["differing_utterances"] == 1.0
    both = merge_ranks([first, second]).to_dict()
    assert both["differing_utterances"] == 0.5 and both["wer_fake"] == both["wer_integer"] == 0.0
