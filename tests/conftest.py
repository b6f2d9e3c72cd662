"""Tiny models and a tiny corpus that every test may share."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on CPU tensors

import numpy as np
import pytest
import soundfile
import torch
import yaml
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from datamodules.base import SpeechDataModule
from datamodules.manifest import ManifestDataModule
from qat.models.crdnn import CRDNNModule
from qat.models.ctc import CTCModule
from qat.models.loading import save_module
from qat.models.wav2vec2 import Wav2Vec2Module
from qat.recipe import Recipe
from tests.once import shared_folder

torch.set_num_threads(
    1
)  # sums of another number of threads differ in the last bit; worker processes have one

ROOT = Path(__file__).resolve().parent.parent

TINY_CRDNN: dict[str, Any] = {
    "n_mels": 8,
    "cnn_channels": [4, 4],
    "cnn_pooling": [2, 2],
    "time_pooling_size": 3,
    "rnn_layers": 2,
    "rnn_neurons": 8,
    "dnn_blocks": 2,
    "dnn_neurons": 8,
}
TINY_WAV2VEC2: dict[str, Any] = {
    "config": {
        "conv_dim": [8, 8, 8, 8, 8, 8, 8],
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
        "do_stable_layer_norm": True,
        "apply_spec_augment": False,
        "layerdrop": 0.0,
    }
}


def build(kind: str, recipe: Recipe | None = None, **arguments: Any) -> CTCModule:
    """A tiny model of either kind with seeded weights."""
    torch.manual_seed(0)
    if kind == "crdnn":
        return CRDNNModule(recipe=recipe, **{**TINY_CRDNN, **arguments})
    return Wav2Vec2Module(recipe=recipe, **{**TINY_WAV2VEC2, **arguments})


def write_hugging_face(folder: Path) -> list[str]:
    """A tiny Wav2Vec2 as Hugging Face saves it, with its processor.

    Returns:
        Its labels in order.
    """
    config = Wav2Vec2Config(**TINY_WAV2VEC2["config"], vocab_size=31)
    torch.manual_seed(1)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    letters = ["<pad>", "<s>", "</s>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), unk_token="</s>").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return letters


def noise(batch: int, seconds: float, seed: int = 0) -> torch.Tensor:
    """Seeded noise `(B, S)` at 16 kHz."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(batch, int(16_000 * seconds), generator=generator)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests come first, so that no worker ends on one alone.

    Hypothesis asks modules for `__file__`, at which SpeechBrain's lazy ones import k2 and fail.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # otherwise as they were
    for module in list(sys.modules.values()):
        if type(module).__name__ in ("LazyModule", "DeprecatedModuleRedirect"):
            vars(module).setdefault("__file__", None)


@pytest.fixture(params=["crdnn", "wav2vec2"])
def kind(request: pytest.FixtureRequest) -> str:
    """Either model."""
    return str(request.param)


def write_corpus(folder: Path) -> dict[str, Path]:
    """A user's own corpus: 12 train, 4 dev, 4 + 4 test utterances of half a second to 1.2 s, as JSONL manifests."""
    rng = np.random.default_rng(0)
    words = ["turn", "on", "the", "light", "call", "home", "one", "two"]
    manifests: dict[str, Path] = {}
    for split, count in {"train": 12, "dev": 4, "test_a": 4, "test_b": 4}.items():
        lines = []
        for index in range(count):
            name = f"{split}-{index}"
            samples = 0.1 * rng.standard_normal(rng.integers(8_000, 19_000))
            soundfile.write(folder / f"{name}.wav", samples, 16_000)
            text = " ".join(rng.choice(words, size=3)) + f" {split.replace('_', ' ')} " + "x" * (index + 1)
            lines.append(json.dumps({"id": name, "audio": f"{name}.wav", "text": text}))
        manifests[split] = folder / f"{split}.jsonl"
        manifests[split].write_text("\n".join(lines) + "\n")
    return manifests


@pytest.fixture(scope="session")
def tiny_manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The manifests of `write_corpus`."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny attention model and both of its folders (`tests.runtime.attention.ExportedAttention`)."""
    from tests.runtime.attention import exported_attention

    return exported_attention(tmp_path_factory)


@pytest.fixture
def tiny_data(tiny_manifests: dict[str, Path]) -> SpeechDataModule:
    """The tiny corpus as a data module."""
    paths = {key: str(tiny_manifests[key]) for key in ("train", "dev")}
    return ManifestDataModule(**paths, test=str(tiny_manifests["test_a"]), max_batch_s=6.0)


def write_config(
    kind: str, folder: Path, manifests: dict[str, Path], float_cache: Path | None = None
) -> Path:
    """A configuration of a tiny model on the tiny corpus.

    Args:
        kind: of the model.
        folder: for the configuration and the float start.
        manifests: of the corpus.
        float_cache: see `EvaluationOptions.cache`.
    """
    from tests.models.attention_models import SHAPE, attention_model

    torch.manual_seed(0)
    model = attention_model(folder) if kind == "attention" else build(kind)
    save_module(model, folder / "start.ckpt")
    shape = {"crdnn": TINY_CRDNN, "wav2vec2": TINY_WAV2VEC2, "attention": SHAPE}[kind]
    name = type(model).__name__
    config = {
        "seed_everything": 1,
        "model": {
            "class_path": f"qat.models.{name}",
            "init_args": {**shape, "init_from": str(folder / "start.ckpt")},
        },
        "data": {
            "class_path": "datamodules.ManifestDataModule",
            "init_args": {
                "train": str(manifests["train"]),
                "dev": str(manifests["dev"]),
                "test": {"test_a": str(manifests["test_a"]), "test_b": str(manifests["test_b"])},
                "max_batch_s": 5.0,
                "max_unalignable": 1.0,  # texts of many an "x" in little audio
            },
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1},
        "qat": {"calibration_utterances": 4},
    }
    if float_cache is not None:
        config["evaluation"] = {"cache": str(float_cache)}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def float_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs keep the exported float start that they share: an export takes ten seconds."""
    folder = shared_folder(tmp_path_factory) / "float_cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def tiny(kind: str, tmp_path: Path, tiny_manifests: dict[str, Path], float_cache: Path) -> Path:
    """A configuration of a tiny model on the tiny corpus."""
    return write_config(kind, tmp_path, tiny_manifests, float_cache)
