"""The shortest audio that a model computes on. Imports nothing: exported files run without PyTorch."""

SHORTEST = 1_600
"""Samples (0.1 s at 16 kHz). A shorter signal is padded with zeros to as many, in modules and sessions alike: the first
convolutions need some input. How many of its samples are valid stays as it is."""
