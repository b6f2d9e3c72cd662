"""Data modules: speech with transcripts in, batches out."""

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch, Utterance, collate
from datamodules.librispeech import LibriSpeechDataModule
from datamodules.manifest import ManifestDataModule
from datamodules.mini_corpus import MiniDataModule
from datamodules.stream_module import StreamDataModule
from datamodules.text import ALPHABET

__all__ = [
    "ALPHABET",
    "Batch",
    "LibriSpeechDataModule",
    "ManifestDataModule",
    "MiniDataModule",
    "SpeechDataModule",
    "StreamDataModule",
    "Utterance",
    "collate",
]
