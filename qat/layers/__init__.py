"""Quantizers, quantized layers, the swap, and what acts on all of them in a model."""
