"""Pure tensor mathematics of quantization: no modules; of this project it imports `system` alone."""
