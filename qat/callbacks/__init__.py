"""When things happen in a run: fold, calibrate, round, save, evaluate."""
