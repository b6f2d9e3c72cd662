"""Speech data for training, calibration and evaluation; configurations name the data modules here."""

from typing import TYPE_CHECKING

from qat.system.lazy import lazy_names

if TYPE_CHECKING:
    from datamodules.librispeech import LibriSpeechDataModule as LibriSpeechDataModule
    from datamodules.manifest import ManifestDataModule as ManifestDataModule
    from datamodules.mini_corpus import MiniDataModule as MiniDataModule
    from datamodules.stream_module import StreamDataModule as StreamDataModule

__all__ = ["LibriSpeechDataModule", "ManifestDataModule", "MiniDataModule", "StreamDataModule"]
__getattr__ = lazy_names(
    __name__,
    {
        "LibriSpeechDataModule": "librispeech",
        "ManifestDataModule": "manifest",
        "MiniDataModule": "mini_corpus",
        "StreamDataModule": "stream_module",
    },
)
