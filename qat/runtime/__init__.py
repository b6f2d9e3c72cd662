"""From a trained module to a running file: export, engine sessions and latency."""
