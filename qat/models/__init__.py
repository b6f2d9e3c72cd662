"""LightningModules of the recognisers; configurations and checkpoints name them here."""

from typing import TYPE_CHECKING

from qat.system.lazy import lazy_names

if TYPE_CHECKING:
    from qat.models.attention import AttentionModule as AttentionModule
    from qat.models.crdnn import CRDNNModule as CRDNNModule
    from qat.models.speechbrain_wav2vec2 import SpeechBrainWav2Vec2Module as SpeechBrainWav2Vec2Module
    from qat.models.wav2vec2 import Wav2Vec2Module as Wav2Vec2Module

__all__ = ["AttentionModule", "CRDNNModule", "SpeechBrainWav2Vec2Module", "Wav2Vec2Module"]
FILES = {
    "AttentionModule": "attention",
    "CRDNNModule": "crdnn",
    "SpeechBrainWav2Vec2Module": "speechbrain_wav2vec2",
    "Wav2Vec2Module": "wav2vec2",
}
__getattr__ = lazy_names(__name__, FILES)
