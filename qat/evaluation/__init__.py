"""Measuring: transcripts, error rates, parity, guards, signal-to-noise."""
