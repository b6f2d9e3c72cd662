"""What changes a built model: calibration, AdaRound, bias correction, BatchNorm folding and re-estimation."""
