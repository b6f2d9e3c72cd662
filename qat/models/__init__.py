"""LightningModules of the recognisers."""

from qat.models.checkpoint import load_module, read_checkpoint
from qat.models.crdnn import CRDNNModule
from qat.models.ctc import CTCModule
from qat.models.wav2vec2 import Wav2Vec2Module

MODELS = ("CRDNNModule", "Wav2Vec2Module")

__all__ = ["MODELS", "CRDNNModule", "CTCModule", "Wav2Vec2Module", "load_module", "read_checkpoint"]
