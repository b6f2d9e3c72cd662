"""speech-qat: quantized training of speech recognisers and its honest measurement."""

__version__ = "0.1.0"
