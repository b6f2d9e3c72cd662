"""Keeping what a run logs: CSV, Weights & Biases."""
