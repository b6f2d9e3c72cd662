"""The comparison of file and module."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from datamodules.batch import Batch, Utterance, collate
from qat.errors import UserError
from qat.models import Wav2Vec2Module
from qat.runtime import Session, check_parity
from qat.runtime.export import trace
from qat.runtime.parity import word_error_rate
from tests.conftest import noise
from tests.runtime.conftest import Exported


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
        for parameter in (twin := __import__("copy").deepcopy(crdnn.module)).head.parameters():
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


def test_normalised_waveform_is_the_files_to_the_last_bit(wav2vec2: Exported, tmp_path: Path) -> None:
    """What comes first must not differ: a last bit there is one in every value behind it."""

    class Features(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, signal: Tensor, lengths: Tensor) -> Tensor:
            return self.module.features(signal, lengths)[0]

    module = wav2vec2.module
    assert isinstance(module, Wav2Vec2Module) and module.do_normalize
    example = {"signal": torch.zeros(2, 32_000), "lengths": torch.tensor([32_000, 16_000])}
    ir.save(trace(Features(module), example, ["features"]), tmp_path / "features.onnx")
    engine = ort.InferenceSession(str(tmp_path / "features.onnx"), providers=["CPUExecutionProvider"])
    for samples in (4_000, 33_333, 160_000):
        signal, lengths = noise(2, samples / 16_000, seed=samples), torch.tensor([samples, samples // 2])
        signal = 0.1 * torch.cumsum(signal[:, :samples], 1).sin() + 0.01  # neither white nor centred
        found = engine.run(None, {"signal": signal.numpy(), "lengths": lengths.numpy()})[0]
        assert torch.equal(torch.from_numpy(found), module.features(signal, lengths)[0])
