"""The embedded "mini" speech corpus: manifests, Ogg Opus audio and the scripts that made them."""
