"""What knows nothing of speech: errors, files, hashes, seeds, processes, hardware."""
